"""Webhooks when something is killed, down or lost: hardened server and receiver."""

import json
import signal
import sqlite3
import time
from contextlib import closing
from threading import Event

import httpx2
import pytest

from .support.processes import wait_until
from .test_webhooks import ALICE, BOB, LOOPBACK, OTHER, SECRET, echo, signed, submit_job

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
    response = httpx2.post(f"{receiver.url}/reports", timeout=30)
    assert response.status_code == 202, response.text
    return response.json()["token"]


def reports(receiver):
    """Return {token: status} of a receiver."""
    found = httpx2.get(f"{receiver.url}/reports").json()
    return {report["token"]: report["status"] for report in found}


def finished(receiver, token):
    """Return how many times a receiver has processed the result of a job."""
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
    assert finished(there, token) + finished(again, token) == 1


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
    """The server waits for as long as the receiver asks in Retry-After, a day at the most; a value
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

    assert httpx2.post(f"{receiver(Nowhere).url}/reports").status_code == 502


def test_a_secret_is_replaced_without_a_gap(server, receiver):
    """A receiver that knows the old and the new secret accepts messages signed with either."""
    there = receiver(server(), SECRETS=f"{SECRET} {OTHER}")
    for secret in SECRET, OTHER:
        body = json.dumps({"type": "job.renamed", "data": {}})
        headers = signed(secret, body)
        response = httpx2.post(f"{there.url}/webhooks", content=body, headers=headers)
        assert response.status_code == 204
