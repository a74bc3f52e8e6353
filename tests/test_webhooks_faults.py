"""Webhooks when something is killed, down or lost: hardened server and receiver."""

import json
import re
import resource
import signal
import socket
import socketserver
import sqlite3
import struct
import time
from contextlib import closing, contextmanager, suppress
from threading import Event, Thread

import httpx2
import pytest

from .support.hostile import PROBE, memory
from .support.processes import wait_until
from .test_webhooks import ALICE, BOB, LOOPBACK, OTHER, SECRET, echo, signed, submit_job

USER = {"Authorization": "Bearer report-key"}
# Until what was killed is started again.
UP_AGAIN = {"RETRY_DELAYS": " ".join(["0.2"] * 200)}


@pytest.fixture
def server(start, tmp_path):
    """Return a function that starts the hardened server, or starts it again after a kill."""

    def server(**variables):
        file = {"FILE": tmp_path / "server.db"}
        return start("webhooks/server_hardened.py", **(LOOPBACK | UP_AGAIN | file | variables))

    return server


@pytest.fixture
def receiver(start, tmp_path):
    """Return a function that starts the hardened receiver, or starts it again after a kill."""

    def receiver(server, **variables):
        file = {"FILE": tmp_path / "receiver.db", "URL": server.url}
        return start("webhooks/receiver_hardened.py", **(file | variables))

    return receiver


def order(receiver):
    """Order a report; return its token."""
    response = httpx2.post(f"{receiver.url}/reports", headers=USER, timeout=30)
    assert response.status_code == 202, response.text
    return response.json()["token"]


def reports(receiver):
    """Return {token: status} of a receiver."""
    found = httpx2.get(f"{receiver.url}/reports", headers=USER).json()
    return {report["token"]: report["status"] for report in found}


def finished(receiver, token):
    """Stop a receiver; return how many times it has processed the result of a job."""
    receiver.stop()
    return receiver.output.count(f"{token} done")


def dead(server):
    return httpx2.get(f"{server.url}/messages", headers=ALICE).json()


def attempts(server):
    """Return {type of message: (status, attempts)} from the file of a server."""
    with closing(sqlite3.connect(server.folder.parent / "server.db")) as db:
        rows = db.execute("SELECT body, status, attempts FROM messages").fetchall()
    return {json.loads(body)["type"]: (status, count) for body, status, count in rows}


def test_a_report_arrives(server, receiver):
    """The receiver orders a report from the server and receives its result, once."""
    reports_receiver = receiver(server())
    token = order(reports_receiver)
    wait_until(lambda: reports(reports_receiver)[token] == "done")
    assert finished(reports_receiver, token) == 1


def test_a_job_survives_the_server(server, receiver):
    """The server is killed while a job runs: it runs the job again when it is started again, and
    the result arrives once."""
    first = server()
    there = receiver(first)
    token = order(there)
    first.stop(signal.SIGKILL)
    server(PORT=first.port)
    wait_until(lambda: reports(there)[token] == "done")
    assert finished(there, token) == 1


def test_a_message_survives_the_server(server, receiver):
    """The server is killed after a job, while its receiver is down: when both are started again,
    the result arrives once."""
    first = server()
    there = receiver(first)
    token = order(there)
    there.stop(signal.SIGKILL)
    wait_until(lambda: attempts(first).get("job.done", ("", 0))[1] > 0)
    first.stop(signal.SIGKILL)
    again = receiver(first, PORT=there.port)
    server(PORT=first.port)
    wait_until(lambda: reports(again).get(token) == "done")
    assert finished(again, token) == 1


def test_a_lost_response_is_a_repeated_message(server, receiver, tap):
    """The response of the receiver is lost after it has stored the result: the message is sent
    again, and the result is processed once."""
    first = server()
    lost, there = [], receiver(first)

    def on_data(event):
        if event.source == "client" and b"job.done" in event.data and not lost:
            lost.append(event.connection)
        return not (event.source == "server" and lost == [event.connection])

    wire = tap(there, on_data=on_data)
    response = submit_job(first, f"{wire.url}/webhooks")
    token = response.json()["token"]
    wait_until(lambda: attempts(first).get("job.done") == ("delivered", 2))
    assert finished(there, token) == 1


def test_a_receiver_killed_while_it_works(server, receiver, tap):
    """The receiver is killed when the request has arrived, before its response: the message is sent
    again to the next process, and the result is processed once."""
    first = server()
    there = receiver(first)
    killed = []

    def on_data(event):
        if event.source == "client" and b"job.done" in event.data and not killed:
            there.send(signal.SIGKILL)
            killed.append(True)
        return True

    wire = tap(there, on_data=on_data)
    token = submit_job(first, f"{wire.url}/webhooks").json()["token"]
    wait_until(lambda: killed)
    there.stop(signal.SIGKILL)
    again = receiver(first, PORT=there.port)
    wait_until(lambda: attempts(first)["job.done"][0] == "delivered")
    assert reports(again)[token] == "done"
    # At most once: it may have been killed between the commit and the line that it prints.
    assert (there.output + again.output).count(f"{token} done") <= 1


def test_an_event_that_is_late_changes_nothing(server, receiver):
    """Events that arrive in another order, and each twice, leave the state of the newest one."""
    there = receiver(server())
    for number, (kind, sequence, status) in enumerate(
        [("job.done", 2, "done"), ("job.started", 1, "pending")] * 2
    ):
        data = {"token": "x", "sequence": sequence, "status": status}
        if status == "done":
            data["result"] = 42
        body = json.dumps({"type": kind, "data": data})
        headers = signed(SECRET, body, f"msg_{number}")
        response = httpx2.post(f"{there.url}/webhooks", content=body, headers=headers)
        assert response.status_code == 204
    assert reports(there) == {"x": "done"}
    assert finished(there, "x") == 1


def test_an_unknown_event_is_accepted(server, receiver):
    """The receiver accepts an event of a type that it does not know, and ignores it."""
    there = receiver(server())
    body = json.dumps({"type": "job.renamed", "data": {}})
    response = httpx2.post(f"{there.url}/webhooks", content=body, headers=signed(SECRET, body))
    assert response.status_code == 204
    assert reports(there) == {}


# A receiver that is down


# In seconds, after the first attempt: https://www.standardwebhooks.com/
SCHEDULE = [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]


def test_a_receiver_that_is_down_for_a_day(server, canned):
    """A receiver that is down for a day misses seven attempts, and the eighth delivers the message:
    with the delays of Standard Webhooks, a million times as short."""
    for jitter in 0.8, 1.2:
        at = [sum(SCHEDULE[:count]) * jitter for count in range(10)]
        assert sum(moment < 86_400 for moment in at) == 7
    first = server(RETRY_DELAYS=" ".join(str(delay / 1e6) for delay in SCHEDULE))
    there = canned(echo, (204, {}, ""), *[(503, {}, "")] * 7, (204, {}, ""))
    submit_job(first, there.url, seconds=0.3)
    wait_until(lambda: attempts(first).get("job.done") == ("delivered", 8))
    assert attempts(first)["job.started"] == ("delivered", 1)
    assert len(there.requests) == 1 + 1 + 8


@pytest.mark.parametrize("made", [0, 4, 8])
def test_the_delays_are_those_of_the_standard(start, tmp_path, canned, made):
    """The hardened server waits after a failure for as long as Standard Webhooks suggests, more or
    less a fifth."""
    options = {"FILE": tmp_path / "server.db", **LOOPBACK}
    first, there = start("webhooks/server_hardened.py", **options), canned(echo, (503, {}, ""))
    submit_job(first, there.url, seconds=60)
    wait_until(lambda: next_attempt(tmp_path)[0] == 1)
    if made:
        first.stop(signal.SIGKILL)
        with closing(sqlite3.connect(tmp_path / "server.db")) as db, db:
            db.execute("UPDATE messages SET attempts = ?, due = 0", [made])
        start("webhooks/server_hardened.py", **options)
        wait_until(lambda: next_attempt(tmp_path)[0] == made + 1)
    delay = next_attempt(tmp_path)[1] - time.time()
    # The machine may be busy: half a minute, where that matters.
    assert SCHEDULE[made] * 0.8 - 30 < delay < SCHEDULE[made] * 1.2


def next_attempt(folder):
    """Return (attempts so far, time of the next one) of the only message."""
    with closing(sqlite3.connect(folder / "server.db")) as db:
        return db.execute("SELECT attempts, due FROM messages").fetchone() or (0, 0)


def test_a_message_is_given_up_and_sent_again(server, canned):
    """A message whose last attempt has failed is listed with its problem, and can be sent again; a
    message that was delivered cannot."""
    first = server(RETRY_DELAYS="0 0")
    there = canned(echo, *[(500, {}, "")] * 3, (204, {}, ""))
    submit_job(first, there.url, seconds=60)
    (letter,) = wait_until(lambda: dead(first))
    assert (letter["attempts"], letter["problem"]) == (3, "status 500")
    retry = f"{first.url}/messages/{letter['id']}/retry"
    assert httpx2.post(retry).status_code == 401
    assert httpx2.post(retry, headers=BOB).status_code == 404
    assert httpx2.post(retry, headers=ALICE).status_code == 202
    wait_until(lambda: attempts(first) == {"job.started": ("delivered", 1)})
    assert httpx2.post(retry, headers=ALICE).status_code == 404
    ids = {headers.get("webhook-id") for _, _, headers in there.requests[1:]}
    assert ids == {letter["id"]}


def test_410_ends_the_attempts(server, canned):
    """A receiver that responds with 410 gets no second attempt."""
    first, there = server(), canned(echo, (410, {}, ""))
    submit_job(first, there.url, seconds=60)
    (letter,) = wait_until(lambda: dead(first))
    assert (letter["attempts"], letter["problem"]) == (1, "status 410")


@pytest.mark.parametrize("value", ["900", "9" * 5_000, "soon", "-1", "٣"])
def test_retry_after_is_obeyed_and_bounded(server, canned, tmp_path, value):
    """The server waits for as long as the Retry-After of the receiver, a day at most; a value
    that is no number changes nothing."""
    first = server(RETRY_DELAYS="5 5")
    there = canned(echo, (429, {"Retry-After": value.encode().decode("latin-1")}, ""))
    submit_job(first, there.url, seconds=60)
    wait_until(lambda: next_attempt(tmp_path)[0] == 1)
    delay = next_attempt(tmp_path)[1] - time.time()
    least = {"900": 900, "9" * 5_000: 86_400}.get(value, 4)
    assert least - 30 < delay <= max(least, 6)


def test_a_slow_receiver_delays_no_other(server, canned):
    """While one receiver does not respond, a message for another one is delivered; the slow one has
    one request open, and not one for each message."""
    released = Event()

    def hold(body):
        released.wait()
        return 204, {}, ""

    first, slow, there = server(), canned(echo, hold), canned(echo, (204, {}, ""))
    for _ in range(5):
        submit_job(first, slow.url, seconds=60)
    submit_job(first, there.url)
    wait_until(lambda: len(there.requests) == 3)
    assert len(slow.requests) == 2  # the confirmation, and one message
    released.set()
    wait_until(lambda: len(slow.requests) == 1 + 5)


# The safety net


def test_an_overdue_report_is_polled(server, receiver):
    """The server has given up a message while the receiver was down: the receiver polls the report
    when it is back, and has the result."""
    first = server(RETRY_DELAYS="")
    there = receiver(first)
    token = order(there)
    there.stop(signal.SIGKILL)
    wait_until(lambda: attempts(first).get("job.done") == ("dead", 1))
    again = receiver(first, PORT=there.port, OVERDUE=0.2)
    wait_until(lambda: reports(again).get(token) == "done")
    assert finished(again, token) == 1


def test_a_job_that_the_server_has_lost(server, receiver, start, tmp_path):
    """A report whose job the server does not know any more is marked as lost, and not polled for
    ever."""
    first = server()
    there = receiver(first, OVERDUE=0.2)
    token = order(there)
    first.stop(signal.SIGKILL)
    server(PORT=first.port, FILE=tmp_path / "empty.db")
    wait_until(lambda: reports(there)[token] == "lost")


def test_without_a_job_server_a_report_is_502(receiver, port):
    """The receiver responds with 502 if it cannot reach the job server."""

    class Nowhere:
        url = f"http://127.0.0.1:{port()}"

    there = receiver(Nowhere)
    assert httpx2.post(f"{there.url}/reports", headers=USER).status_code == 502


def test_a_report_needs_a_key(receiver, canned):
    """Only a user with a key orders and lists reports: all others get 401, and the job server gets
    no request."""
    jobs = canned((202, {}, {"token": "a"}))
    there = receiver(jobs)
    for key in "", "Bearer", "Bearer alice-key", "Bearer \xff", "Basic report-key":
        headers = {"Authorization": key.encode("latin-1")} if key else {}
        assert httpx2.post(f"{there.url}/reports", headers=headers).status_code == 401
        assert httpx2.get(f"{there.url}/reports", headers=headers).status_code == 401
    assert jobs.requests == []


def test_the_reports_are_bounded(receiver, canned):
    """The receiver rejects a report with 503 if it has MAX_REPORTS, and deletes those that ended
    more than RETENTION ago, so that their number has a limit."""
    there = receiver(canned((202, {}, {"token": "a"})), MAX_REPORTS=2, RETENTION=10_000)
    order(there)
    post_event(there, done("a"))
    post_event(there, done("b"))
    response = httpx2.post(f"{there.url}/reports", headers=USER)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "3600")
    there.stop()
    again = receiver(canned((200, {}, {})), PORT=there.port, OVERDUE=0.1, RETENTION=-1_000)
    wait_until(lambda: reports(again) == {})


def done(token):
    """Return the event that a job is done, as JSON."""
    data = {"token": token, "sequence": 2, "status": "done", "result": 42}
    return json.dumps({"type": "job.done", "data": data})


def test_a_secret_is_replaced_without_a_gap(server, receiver):
    """A receiver that knows the old and the new secret accepts messages signed with either."""
    there = receiver(server(), SECRETS=f"{SECRET} {OTHER}")
    for secret in SECRET, OTHER:
        body = json.dumps({"type": "job.renamed", "data": {}})
        headers = signed(secret, body)
        response = httpx2.post(f"{there.url}/webhooks", content=body, headers=headers)
        assert response.status_code == 204


# Hostile receivers


def trickling(connection):
    """Send one byte of a response after the other, without end."""
    while True:
        connection.sendall(b"H")
        time.sleep(0.02)


def endless(connection):
    """Send a success with a body that has no end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65_536)


def endless_headers(connection):
    """Send a response whose header fields have no end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-Name: value\r\n" * 1000)


def interim(connection):
    """Send interim responses, without end."""
    while True:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


def resetting(connection):
    """Reset the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def garbage(connection):
    """Send bytes that are not HTTP."""
    connection.sendall(b"\x00\xff" * 1000)


def silent(connection):
    """Send nothing at all."""
    connection.recv(1)


@contextmanager
def hostile_receiver(respond):
    """Yield the URL of a receiver that confirms, and then responds in this way."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with suppress(OSError):  # the server has closed the connection
                head, _, body = self.request.recv(65_536).partition(b"\r\n\r\n")
                length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
                while len(body) < length:
                    body += self.request.recv(65_536)
                if b"receiver.confirm" in body:
                    data = json.dumps(json.loads(body)["data"]).encode()
                    start = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data)
                    self.request.sendall(start + data)
                else:
                    respond(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 256

    with Server(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, args=[0.02], daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/"
        listening.shutdown()


@pytest.mark.parametrize(
    "respond",
    [trickling, endless, endless_headers, interim, resetting, garbage, silent],
    ids=lambda respond: respond.__name__,
)
def test_a_hostile_receiver(server, canned, respond):
    """A receiver that trickles, resets, or responds without end delays no other, and each attempt
    ends; the memory of the server does not grow by more than 24 MB."""
    first = server(ATTEMPT_TIMEOUT=1, **PROBE)
    good = canned(echo, (204, {}, ""))
    submit_job(first, good.url)
    wait_until(lambda: attempts(first).get("job.done") == ("delivered", 1))
    before = memory(first)
    with hostile_receiver(respond) as url:
        response = submit_job(first, url)
        assert response.status_code == 202, response.text
        submit_job(first, good.url)
        wait_until(lambda: len(good.requests) == 5)  # one confirmation, four messages
        wait_until(lambda: tried(first, url) >= 3)
    assert memory(first) < before + 24_000


def tried(server, url):
    """Return how many attempts for a receiver have ended; a success counts as three."""
    with closing(sqlite3.connect(server.folder.parent / "server.db")) as db:
        rows = db.execute("SELECT status, attempts FROM messages WHERE url = ?", [url]).fetchall()
    return sum(3 if status == "delivered" else count for status, count in rows)


def test_an_owner_has_a_share_of_the_attempts(server, canned):
    """An owner with twelve receivers that do not respond has ten requests open, and delays no
    other owner."""
    first = server(ATTEMPT_TIMEOUT=60, RETRY_DELAYS="600")
    opened = []

    def hold(connection):
        opened.append(connection)
        silent(connection)

    with hostile_receiver(hold) as url:
        for number in range(12):
            assert submit_job(first, f"{url}{number}", seconds=60).status_code == 202
        wait_until(lambda: len(opened) == 10)
        good = canned(echo, (204, {}, ""))
        job = {"seconds": 0, "callback": good.url}
        httpx2.post(f"{first.url}/jobs", json=job, headers=BOB)
        wait_until(lambda: len(good.requests) == 3)
        assert len(opened) == 10


@pytest.mark.parametrize(
    "callback",
    [
        "http://127.0.0.1/a\r\nX-Name: value",
        "http://127.0.0.1\r\nX-Name: value/",
        "http://127.0.0.1/\ud800",
        "http://\ud800/",
        "http://127.0.0.1/\0",
        "http://a%0d%0ab/",
        "http://127.0.0.1:99999/",
        f"http://{'a' * 64}.example/",
        "http://[::ffff:10.0.0.1]/",
        5,
        ["http://127.0.0.1/"],
    ],
)
def test_a_hostile_callback_is_400(server, callback):
    """A callback with a line break, half a surrogate pair, a port that does not exist or an
    invalid name is a 400."""
    body = json.dumps({"seconds": 0, "callback": callback})
    headers = ALICE | {"Content-Type": "application/json"}
    response = httpx2.post(f"{server().url}/jobs", content=body, headers=headers)
    assert response.status_code == 400


# The file, and the clock


def limit_files(program, size):
    """Limit the size of the files that a program can write, as if the disk were full there."""
    _, hard = resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def test_a_full_disk_loses_no_message(server, canned):
    """When the disk is full, the server responds with 503 and Retry-After, and keeps the result of
    a job that ends; when there is room again, it delivers the result."""
    first, there = server(), canned(echo, (204, {}, ""))
    submit_job(first, there.url, seconds=1)
    wait_until(lambda: attempts(first) == {"job.started": ("delivered", 1)})
    limit_files(first, 0)
    response = submit_job(first, None)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    first.wait_for("cannot store a result")
    limit_files(first, resource.RLIM_INFINITY)
    wait_until(lambda: attempts(first).get("job.done") == ("delivered", 1))


def test_an_outcome_that_cannot_be_stored_is_repeated(server, canned):
    """When the outcome of an attempt cannot be stored, the message is sent once more, and other
    messages follow."""
    first = server()
    there = canned(echo, lambda _: (limit_files(first, 0), (204, {}, ""))[1], (204, {}, ""))
    submit_job(first, there.url)
    first.wait_for("cannot store an outcome")
    limit_files(first, resource.RLIM_INFINITY)
    wait_until(lambda: set(attempts(first).values()) == {("delivered", 1)})
    wait_until(lambda: "job.done" in attempts(first))


def test_a_second_server_does_not_start(server, start, tmp_path):
    """A second server with the same file ends with one line; it would send each message again."""
    server()
    with pytest.raises(AssertionError, match=r"server\.db is in use by another server"):
        start("webhooks/server_hardened.py", FILE=tmp_path / "server.db")


def test_a_clock_that_is_set_back(server, canned):
    """A message whose next attempt is due in ten years, by a clock that was wrong, is sent at
    once."""
    first, there = server(RETRY_DELAYS="600"), canned(echo, (503, {}, ""), (204, {}, ""))
    submit_job(first, there.url, seconds=60)
    wait_until(lambda: attempts(first).get("job.started") == ("waiting", 1))
    first.stop(signal.SIGKILL)
    with closing(sqlite3.connect(first.folder.parent / "server.db")) as db, db:
        db.execute("UPDATE messages SET due = due + 10 * 365 * 86400")
    again = server(RETRY_DELAYS="600")
    wait_until(lambda: attempts(again).get("job.started") == ("delivered", 2))


def test_at_the_limit_no_receiver_is_called(server, canned):
    """An owner who has too many jobs gets 429 before the server sends anything to the receiver."""
    first, there = server(MAX_JOBS_PER_OWNER=1), canned(echo)
    assert submit_job(first, None).status_code == 202
    assert submit_job(first, there.url).status_code == 429
    assert not there.requests


# The receiver, and a server with faults


def post_event(receiver, body):
    headers = signed(SECRET, body)
    return httpx2.post(f"{receiver.url}/webhooks", content=body, headers=headers).status_code


@pytest.mark.parametrize(
    "body",
    [
        "5",
        "[]",
        "{}",
        '{"type": 5}',
        '{"type": "job.done"}',
        '{"type": "job.done", "data": []}',
        '{"type": "job.done", "data": {"token": "\\ud800", "sequence": 2, "status": "done"}}',
        '{"type": "job.done", "data": {"token": "a", "sequence": 2, "status": "\\u001b[2J"}}',
        '{"type": "job.done", "data": {"token": "a", "sequence": "2", "status": "done"}}',
        '{"type": "job.done", "data": {"token": "a", "sequence": 2, "status": "done", "result": '
        + "9" * 30
        + "}}",
    ],
)
def test_a_signed_message_that_is_no_event_is_400(receiver, server, body):
    """The receiver rejects a signed message that is not an event with 400."""
    assert post_event(receiver(server()), body) == 400


def test_a_new_field_is_ignored(receiver, server):
    """The receiver accepts an event with a field that it does not know, so that a server can add
    fields."""
    there = receiver(server())
    data = {"token": "a", "sequence": 2, "status": "done", "result": 42, "new": []}
    assert post_event(there, json.dumps({"type": "job.done", "data": data})) == 204
    assert reports(there) == {"a": "done"}


def test_the_poller_survives_a_server_with_faults(receiver, canned):
    """A job server that responds to polls with something other than a job does not end the
    polling: the next response that is a job counts."""
    faults = [(200, {}, body) for body in ([], {}, {"status": []}, "no JSON", {"status": "done"})]
    result = {"token": "a", "status": "done", "result": 42, "new": 1}
    there = canned((202, {}, {"token": "a"}), *faults[:4], (200, {}, result))
    started = receiver(there, OVERDUE=0)
    assert order(started) == "a"
    wait_until(lambda: reports(started) == {"a": "done"})
