"""Webhooks: the server posts the result to a receiver of the client's."""

import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime

import httpx2
import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError

from .support.browsing import counters, replay
from .support.crossing import Wire
from .support.diffs import functions
from .support.messages import counts, label, messages, table, transcript
from .support.processes import Program, environment, wait_until
from .support.sequence import sequence_diagram, trace_of

TOPIC, QUICK = "webhooks", {}
SECRET = "whsec_ZXhhbXBsZSBzZWNyZXQsIDI0IGJ5dGVz"
OTHER = "whsec_YW5vdGhlciBzZWNyZXQsIDI0IGJ5dGVz"
ALICE = {"Authorization": "Bearer alice-key"}
BOB = {"Authorization": "Bearer bob-key"}
LOOPBACK = {"ALLOWED_NETWORKS": "127.0.0.0/8"}
ACCEPTED = (204, {}, "")
# The delays between attempts, taken out.
AT_ONCE = {"1, 5, 30": "0, 0, 0"}


def echo(body):
    """Confirm a receiver: return what the server sent."""
    return 200, {}, json.loads(body)["data"]


def submit_job(server, callback, **job):
    job = {"seconds": 0, "callback": callback} | job
    return httpx2.post(f"{server.url}/jobs", json=job, headers=ALICE)


def signed(secret, body, message_id="msg_1", at=None):
    """Return the headers of a message, signed by the library of Standard Webhooks."""
    at = datetime.fromtimestamp(int(time.time()) if at is None else at, UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, body),
    }


EVENT = (
    '{"type": "job.done", "data": {"token": "x", "sequence": 2, "status": "done", "result": 42}}'
)


def send(receiver, headers, body=EVENT):
    response = httpx2.post(f"{receiver.url}/webhooks", content=body, headers=headers)
    return response.status_code


def results(receiver):
    """Return how many results a receiver has processed."""
    return receiver.output.count("job.done")


# The quick start


@pytest.fixture(scope="module")
def receiver(start_shared):
    """Return the quick-start receiver, running."""
    return start_shared("webhooks/receiver.py")


def test_the_result_is_posted_to_the_receiver(start, tap, run, record):
    """The server posts the result to the callback URL when the job is done; the client sends one
    request, and no poll: two connections and two requests in all."""
    receiver = start("webhooks/receiver.py")
    to_receiver = tap(receiver)
    to_server = tap(start("webhooks/server.py"))
    callback = f"{to_receiver.url}/webhooks"
    client = run("webhooks/client.py", URL=to_server.url, CALLBACK=callback)
    receiver.wait_for("job.done")
    to_receiver.wait_until(lambda events: [event for event in events if event.source == "server"])
    token = client.stdout.split()[-1]
    assert f"'token': '{token}', 'status': 'done', 'result': 42" in receiver.output
    up, down = messages(to_server.events)
    assert (up.method, down.status) == ("POST", 202)
    webhook, response = messages(to_receiver.events)
    assert (webhook.method, response.status) == ("POST", 204)
    rows = [
        {"messages": "the submission, client to server"} | counts(to_server),
        {"messages": "the webhook, server to receiver"} | counts(to_receiver),
    ]
    columns = "connections", "requests", "bytes up", "bytes down", "round trips"
    rows.append({"messages": "sum"} | {name: sum(row[name] for row in rows) for name in columns})
    assert (rows[-1]["connections"], rows[-1]["requests"]) == (2, 2)
    record("webhooks/costs.md", table(rows))
    record("webhooks/client.txt", client.stdout)
    record("webhooks/receiver.txt", receiver.output.splitlines()[-1] + "\n")
    parties = "server", "receiver"
    title = "A webhook and its response"
    record("webhooks/wire.html", transcript([webhook, response], title, parties))
    drawn = figure(
        [
            (up, "client", "server", 0),
            (down, "server", "client", 0),
            (webhook, "server", "receiver", 1.5),
            (response, "receiver", "server", 1.5),
        ]
    )
    record("webhooks/timeline.json", drawn)
    record(
        "webhooks/timeline.svg",
        sequence_diagram(
            drawn,
            "A job whose result is posted to a receiver",
            "The client submits a job and receives 202. After one and a half seconds the server "
            "posts the result to the receiver, which responds with 204.",
        ),
    )


def figure(passed):
    """Return a trace with three lanes of (message, from, to, at)."""
    drawn = [
        {"at": at, "from": source, "to": to, "text": label(message).split()[0]}
        for message, source, to, at in passed
    ]
    bars = [{"kind": "job", "lane": "server", "start": 0, "end": 1.5, "text": "job"}]
    if (last := drawn[-1]["at"]) > 1.5:
        bars.append({"kind": "late", "lane": "receiver", "start": 1.5, "end": last, "text": "late"})
    return trace_of(["client", "server", "receiver"], drawn, unit="s", bars=bars)


def test_a_retry_delivers_the_result(start, tap, canned, record):
    """After a `503` the server waits a second, as drawn, and its second attempt delivers the
    result."""
    unit = 2  # seconds that are drawn as one, as a busy machine is late each time
    to_receiver = tap(canned((503, {}, ""), ACCEPTED))
    to_server = tap(start("webhooks/server.py", changes={"0, 1, 5, 30": f"0, {unit}, 60, 60"}))
    submit_job(to_server, to_receiver.url, seconds=1.5 * unit)
    to_receiver.wait_until(lambda events: len(messages(events)) == 4)
    ways = ("client", "server"), ("server", "client")
    passed = [(*each, to_server) for each in zip(messages(to_server.events), ways, strict=True)]
    ways = ("server", "receiver"), ("receiver", "server")
    attempts = messages(to_receiver.events)
    assert [each.status for each in attempts[1::2]] == [503, 204]
    passed += [(*each, to_receiver) for each in zip(attempts, ways * 2, strict=True)]
    begin = to_server.start + passed[0][0].at
    drawn = [  # times rounded down to halves
        (message, *way, int((tap.start + message.at - begin) / unit * 2 + 0.1) / 2)
        for message, way, tap in passed
    ]
    assert [at for *_, at in drawn[2:]] == [1.5, 1.5, 2.5, 2.5]
    record("webhooks/retry.json", figure(drawn))


def test_the_panel_replays(static, open_page):
    """The panel plays the recorded run: the attempt that gets `503`, and the one that delivers."""
    page = replay(open_page, f"{static.url}/techniques/webhooks/")
    texts = page.locator(".panel-wire text:is(.up, .down)").all_text_contents()
    assert texts == ["POST", "202", "POST", "503", "POST", "204"]
    assert counters(page)["Known late by"] == "1.0 s"


def test_a_library_verifies_the_signature(start, canned):
    """The signature of the server is valid for the library of Standard Webhooks, which rejects the
    same message with one byte changed."""
    server, receiver = start("webhooks/server.py"), canned(ACCEPTED)
    submit_job(server, receiver.url)
    wait_until(lambda: receiver.bodies)
    _, _, headers = receiver.requests[0]
    assert Webhook(SECRET).verify(receiver.bodies[0], headers)["data"]["result"] == 42
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(receiver.bodies[0].replace(b"42", b"43"), headers)


@pytest.fixture(scope="module", params=["receiver.py", "receiver_hardened.py"])
def either(request, start_shared):
    """Return each receiver, running."""
    return start_shared(f"webhooks/{request.param}")


def done(token):
    return json.dumps(
        {
            "type": "job.done",
            "data": {"token": token, "sequence": 2, "status": "done", "result": 42},
        }
    )


def test_a_message_that_the_library_signs_is_accepted(either):
    """The receiver accepts a message that the library of Standard Webhooks has signed, also with
    other signatures beside it."""
    body = done("signed")
    assert send(either, signed(SECRET, body, "msg_a"), body) == 204
    headers = signed(SECRET, body, "msg_b")
    headers["webhook-signature"] = f"v1,AAAA {headers['webhook-signature']} v2,x"
    assert send(either, headers, body) == 204


FORGERY = done("forged")
GENUINE = signed(SECRET, FORGERY)
FORGED = {
    "no headers": {},
    "another secret": signed(OTHER, FORGERY),
    "another body": signed(SECRET, FORGERY.replace("42", "43")),
    "another id": GENUINE | {"webhook-id": "msg_2"},
    "another time": GENUINE | {"webhook-timestamp": str(int(time.time()) + 1)},
    "no time": GENUINE | {"webhook-timestamp": ""},
    "another scheme": GENUINE | {"webhook-signature": "v0,AAAA"},
    "not ASCII": {name: b"\xff\xfe" for name in GENUINE},
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_message_is_400(either, name):
    """The receiver rejects a message with 400 if its id, time or body is not the one that was
    signed, or if it was signed with another secret."""
    assert send(either, FORGED[name], FORGERY) == 400
    assert "forged" not in either.output


@pytest.mark.parametrize("age", [-400, 400])
def test_an_old_message_is_400(either, age):
    """The receiver rejects a message that was signed more than five minutes ago, or that is from
    the future."""
    assert send(either, signed(SECRET, EVENT)) == 204
    assert send(either, signed(SECRET, EVENT, at=time.time() + age)) == 400


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg"])
def test_a_proxy_leaves_the_body_as_it_is(either, before, name):
    """A signed message with unusual white space is valid behind nginx and behind HAProxy."""
    # It has no path for the health check of HAProxy.
    unchecked = {"default-server check ": "default-server "} if name == "haproxy.cfg" else {}
    proxy = before(f"load_balancing/{name}", either.port, **unchecked)
    body = EVENT.replace(":", " :\t").replace(",", "\r\n,")
    assert send(proxy, signed(SECRET, body), body) == 204


def test_a_repeated_message_is_processed_once(start):
    """A message that arrives three times is accepted each time, and processed once."""
    receiver = start("webhooks/receiver.py")
    headers = signed(SECRET, EVENT)
    assert [send(receiver, headers) for _ in range(3)] == [204] * 3
    assert receiver.stop() == 0
    assert results(receiver) == 1


def test_a_failed_attempt_is_repeated_with_the_same_id(start, canned):
    """After a response that is no success the server makes another attempt: the same id and body,
    a new timestamp and signature; after a success it makes none."""
    server = start("webhooks/server.py", changes={"0, 1, 5, 30": "0, 1.1, 0, 0"})
    receiver = canned((503, {}, ""), (302, {"Location": "/other"}, ""), ACCEPTED)
    submit_job(server, receiver.url)
    wait_until(lambda: len(receiver.requests) == 3)
    headers = [headers for _, _, headers in receiver.requests]
    assert len({each["webhook-id"] for each in headers}) == 1
    assert len(set(receiver.bodies)) == 1
    first, second, _ = [each["webhook-timestamp"] for each in headers]
    assert int(second) > int(first)
    for each in headers:
        Webhook(SECRET).verify(receiver.bodies[0], each)
    assert server.stop() == 0
    assert len(receiver.requests) == 3


def test_a_fourth_failure_is_the_last(start, canned):
    """The quick-start server makes four attempts; after that the result can still be polled."""
    server, receiver = start("webhooks/server.py", changes=AT_ONCE), canned((500, {}, ""))
    submitted = submit_job(server, receiver.url)
    wait_until(lambda: len(receiver.requests) == 4)
    job = httpx2.get(server.url + submitted.headers["Location"]).json()
    assert (job["status"], job["result"]) == ("done", 42)
    assert server.stop() == 0
    assert len(receiver.requests) == 4


@pytest.mark.parametrize("callback", [5, True, ["http://x"], "", "ftp://x", "receiver"])
@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_a_callback_is_a_url(start_shared, name, callback):
    """The server rejects a callback that is not an HTTP URL with 400."""
    response = submit_job(start_shared(f"webhooks/{name}"), callback)
    assert response.status_code == 400
    assert '"callback"' in response.json()["message"]


def begin_job(server, callback):
    """Submit a job, and do not wait for the response; return the connection."""
    body = json.dumps({"seconds": 0, "callback": callback})
    head = "POST /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice-key\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_stops_with_a_request_in_flight(start, port, name, number):
    """The server stops cleanly while it waits for a receiver's response."""
    with socket.create_server(("127.0.0.1", port())) as silent:
        silent.settimeout(30)
        server = start(f"webhooks/{name}", **LOOPBACK)
        with begin_job(server, f"http://127.0.0.1:{silent.getsockname()[1]}/"):
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(100)
                assert server.stop(number) == 0


# Wrong programs


def test_one_attempt_loses_the_message(start, canned):
    """A server that makes one attempt loses the message of a receiver that is restarting; with
    three more attempts the message arrives."""
    wrong, right = canned((503, {}, ""), ACCEPTED), canned((503, {}, ""), ACCEPTED)
    once = start("webhooks/wrong_once.py", changes={})
    submit_job(once, wrong.url)
    wait_until(lambda: wrong.requests)
    server = start("webhooks/server.py", changes=AT_ONCE)
    submit_job(server, right.url)
    wait_until(lambda: len(right.requests) == 2)
    assert once.stop() == 0
    assert len(wrong.requests) == 1


def test_a_signature_of_other_bytes_is_never_valid(start, canned):
    """A receiver that serializes the JSON again before it checks the signature rejects a message
    that the right receiver accepts."""
    server, caught = start("webhooks/server.py"), canned(ACCEPTED)
    submit_job(server, caught.url)
    wait_until(lambda: caught.bodies)
    sent = {k: v for k, v in caught.requests[0][2].items() if k.startswith("webhook-")}
    wrong, right = start("webhooks/wrong_body.py"), start("webhooks/receiver.py")
    assert send(wrong, sent, caught.bodies[0]) == 400
    assert send(right, sent, caught.bodies[0]) == 204


def by_hand(command, **ports):
    """Run the curl of a page with other ports; return what it prints."""
    for number, other in ports.items():
        command = command.replace(number.removeprefix("at_"), str(other))
    curl = command[command.index("curl ") :]
    ran = subprocess.run(["sh", "-c", curl], env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def replayed():
    """Return the command that sends a message again that was recorded on 1 January 2026."""
    headers = signed(SECRET, EVENT, "msg_recorded", at=1_767_225_600)
    # Without blanks and by this name the recorder leaves the signature and the port as they are.
    lines = [f"--header '{name}:{value}'" for name, value in headers.items()]
    lines = ["curl --include http://localhost:8001/webhooks", *lines, f"--data '{EVENT}'"]
    return " \\\n  ".join(lines) + "\n"


def test_a_recorded_message_can_be_replayed(start, record):
    """A receiver that checks the signature only processes a recorded message each time that it is
    sent, also after an hour or months; the right receiver processes it once."""
    wrong, right = start("webhooks/wrong_replay.py"), start("webhooks/receiver.py")
    now, hour_ago = signed(SECRET, EVENT), signed(SECRET, EVENT, at=time.time() - 3600)
    assert [send(wrong, headers) for headers in (now, now, hour_ago)] == [204] * 3
    wait_until(lambda: results(wrong) == 3)
    assert [send(right, headers) for headers in (now, now, hour_ago)] == [204, 204, 400]
    wait_until(lambda: results(right) == 1)
    for receiver, status in (wrong, "204 No Content"), (wrong, "204 No"), (right, "400 Bad"):
        assert by_hand(replayed(), at_8001=receiver.port).startswith(f"HTTP/1.1 {status}")
    wait_until(lambda: results(wrong) == 5)
    record("webhooks/replayed.run", replayed())


def test_work_before_the_response_is_done_again(start, record):
    """A receiver that works for longer than the server waits, before it responds, processes one
    message four times; the right receiver, once."""
    impatient = AT_ONCE | {"AsyncClient()": "AsyncClient(timeout=0.5)"}
    server = start("webhooks/server.py", changes=impatient)
    wrong = start("webhooks/wrong_slow.py", SECONDS_OF_WORK=5)
    right = start("webhooks/receiver.py")
    for receiver in wrong, right:
        assert submit_job(server, f"{receiver.url}/webhooks").status_code == 202
    wait_until(lambda: results(wrong) == 4)
    wait_until(lambda: results(right) == 1)
    lines = wrong.output.splitlines()
    record("webhooks/wrong_slow.txt", "".join(f"{line}\n" for line in lines if "job" in line))


INSIDE = [
    "http://127.0.0.1:{port}/",
    "https://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://127.1:{port}/",
    "http://2130706433:{port}/",
    "http://0:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://10.0.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://100.64.0.1/",
    "https://[fd00::1]/",
    "https://[fe80::1]/",
    "https://224.0.0.1/",
]


@pytest.fixture(scope="module")
def strict(start_shared, tmp_path_factory):
    """Return a hardened server that allows global addresses only."""
    return start_shared("webhooks/server_hardened.py")


@pytest.mark.parametrize("callback", INSIDE)
def test_a_callback_to_a_private_address_is_400(strict, canned, callback):
    """The hardened server rejects a callback whose host has a private address, in any spelling,
    and sends no request there."""
    inside = canned(echo)
    url = callback.format(port=inside.port)
    response = submit_job(strict, url)
    assert response.status_code == 400, response.text
    assert "has no address to send to" in response.text
    assert inside.requests == []


def test_plain_http_is_400(strict):
    """The hardened server rejects a callback that is not https, also at a global address."""
    response = submit_job(strict, "http://192.0.32.10/")
    assert "has no address to send to" in response.json()["message"]


def test_an_inside_name_is_not_disclosed(strict):
    """A host that does not exist and a host that has a private address get the same response, so
    that a client cannot find out which names exist inside."""
    found = []
    for host in "localhost", "nowhere.invalid":
        response = submit_job(strict, f"https://{host}/")
        found.append((response.status_code, response.text.replace(host, "HOST")))
    assert found[0] == found[1]


INTO_THE_NETWORK = """\
# Terminal 1: a server that only this machine can reach
python3 -m http.server 8002 --bind 127.0.0.1
# Terminal 2
uv run wrong_ssrf.py
# Terminal 3
curl http://localhost:8000/jobs --header 'Authorization: Bearer alice-key' \\
  --header 'Content-Type: application/json' \\
  --data '{"seconds": 0, "callback": "http://localhost:8002/admin"}'
"""


def test_without_the_check_a_client_reaches_the_inside(start, port, tmp_path, record):
    """Without the check of addresses a client makes the server send a request to a server that
    only this machine can reach; with it, the server responds with 400 and sends none."""
    command = [sys.executable, "-m", "http.server", str(number := port()), "--bind", "127.0.0.1"]
    inside = Program(command, tmp_path, environment())
    try:
        inside.wait_for("Serving HTTP")
        right, wrong = start("webhooks/server_hardened.py"), start("webhooks/wrong_ssrf.py")
        output = by_hand(INTO_THE_NETWORK, at_8000=right.port, at_8002=number)
        assert "has no address to send to" in output
        by_hand(INTO_THE_NETWORK, at_8000=wrong.port, at_8002=number)
        inside.wait_for('"POST /admin HTTP/1.1" 501')
        assert inside.output.count("POST /admin") == 1
    finally:
        inside.send(signal.SIGTERM)
        inside.wait()
    record("webhooks/forged.run", INTO_THE_NETWORK)


def test_a_redirect_is_not_followed(start, canned):
    """A redirect counts as a failure: the server sends no request to its Location."""
    inside = canned(echo)
    outside = canned((307, {"Location": inside.url}, ""))
    response = submit_job(start("webhooks/server_hardened.py", **LOOPBACK), outside.url)
    assert "status 307" in response.json()["message"]
    assert inside.requests == []


def test_the_name_is_resolved_once(start, port):
    """The request goes to the address that was checked, with the name of the URL in Host: the
    name is not resolved again."""
    with socket.create_server(("127.0.0.2", port())) as receiver:
        receiver.settimeout(30)
        number = receiver.getsockname()[1]
        # As if the name had this address when it was checked, and another one later.
        changes = {"str(addresses[0])": '"127.0.0.2"'}
        server = start("webhooks/server_hardened.py", changes=changes, **LOOPBACK)
        with begin_job(server, f"http://localhost:{number}/x"):
            connection, _ = receiver.accept()
            with connection:
                assert f"host: localhost:{number}\r\n" in connection.recv(65536).decode().lower()


@pytest.mark.parametrize("name", ["localhost", "other.example"])
def test_the_certificate_is_checked_for_the_name(start, port, tmp_path, name):
    """Over TLS the server accepts a receiver whose certificate has the name of the URL, and no
    other one."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    server = start("webhooks/server_hardened.py", SSL_CERT_FILE=tmp_path / "ca.pem", **LOOPBACK)
    receiver = start("webhooks/receiver_hardened.py")
    wire = Wire(
        receiver.port, port(), wrap=lambda client: context.wrap_socket(client, server_side=True)
    )
    try:
        response = submit_job(server, f"https://localhost:{wire.port}/webhooks")
    finally:
        wire.close()
    assert response.status_code == (202 if name == "localhost" else 400), response.text


# The hardened programs


def test_the_hardened_programs_extend_the_quick_start():
    """The hardened server and receiver have the functions of the quick start."""
    for kind in "server", "receiver":
        quick, hardened = f"webhooks/{kind}.py", f"webhooks/{kind}_hardened.py"
        assert set(functions(quick)) <= set(functions(hardened))


@pytest.mark.parametrize("body", ["{}", "null", "[]", '{"challenge": "x"}', "[" * 100_000])
def test_a_receiver_confirms_first(start_shared, canned, body):
    """The hardened server rejects a job whose receiver does not return the challenge, and sends
    that receiver nothing more."""
    server, receiver = (
        start_shared("webhooks/server_hardened.py", **LOOPBACK),
        canned((200, {}, body)),
    )
    response = submit_job(server, receiver.url)
    assert response.status_code == 400
    assert "challenge" in response.json()["message"]
    assert len(receiver.requests) == 1


def test_a_receiver_confirms_once_for_each_owner(start, canned):
    """A receiver confirms once for each owner, and the challenge is signed with the owner's own
    secret."""
    server, receiver = start("webhooks/server_hardened.py", **LOOPBACK), canned(echo)
    job = {"seconds": 60, "callback": receiver.url}
    for owner in ALICE, ALICE, BOB:
        assert httpx2.post(f"{server.url}/jobs", json=job, headers=owner).status_code == 202
    confirmed = [
        (body, headers)
        for body, (_, _, headers) in zip(receiver.bodies, receiver.requests, strict=False)
        if b"receiver.confirm" in body
    ]
    assert len(confirmed) == 2
    for secret, (body, headers) in zip([SECRET, OTHER], confirmed, strict=True):
        Webhook(secret).verify(body, headers)


def test_jobs_per_owner_are_limited(start):
    """An owner with too many jobs gets 429 with Retry-After; other owners are served."""
    server = start("webhooks/server_hardened.py", MAX_JOBS_PER_OWNER=2)
    statuses = [submit_job(server, None).status_code for _ in range(3)]
    assert statuses == [202, 202, 429]
    assert httpx2.post(f"{server.url}/jobs", json={"seconds": 0}, headers=BOB).status_code == 202
