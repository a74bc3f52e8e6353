"""The token: the server responds before the job is done, and returns the URL to poll."""

import re
import signal
import string
import subprocess
import sys
import time

import httpx2
import pytest

from .support.browsing import both_browsers
from .support.diffs import diff, functions
from .support.messages import exchanges, label, messages, table, trace, transcript
from .support.processes import (
    EXAMPLES,
    JOB_SERVERS,
    READY,
    Program,
    copy_isolated,
    environment,
    named,
)
from .support.sequence import sequence_diagram

# Those whose jobs can fail on request, and those whose jobs are one sleep.
FAILING = [name for name in JOB_SERVERS if name in named("server*.py", '"fail"')]
SLEEPING = [
    name for name in JOB_SERVERS if name in named("server*.py", " await asyncio.sleep(seconds")
]
ALICE = {"Authorization": "Bearer alice-key"}
BOB = {"Authorization": "Bearer bob-key"}


@pytest.fixture(scope="module")
def server(start_shared):
    """Return the quick-start server, running."""
    return start_shared("token/server.py")


@pytest.fixture(scope="module")
def hardened(start_shared):
    """Return the hardened server, running."""
    return start_shared("token/server_hardened.py")


def submit_job(server, headers=None, **job):
    response = httpx2.post(f"{server.url}/jobs", json=job or {"seconds": 60}, headers=headers)
    assert response.status_code == 202, response.text
    return response


def get_job(server, submitted, headers=None):
    return httpx2.get(server.url + submitted.headers["Location"], headers=headers)


def poll_until(server, submitted, status, headers=None):
    """Poll until the job has this status or HTTP status; return the response."""
    while True:
        response = get_job(server, submitted, headers)
        if status in (response.status_code, response.json().get("status")):
            return response
        assert response.status_code != 404, f"never {status}, and now unknown"
        time.sleep(0.05)


# The quick-start server


def test_responds_before_the_job_is_done(server):
    """The server responds with 202 while the job is still running."""
    submitted = submit_job(server, seconds=60)
    assert submitted.status_code == 202
    assert submitted.json()["status"] == "pending"
    assert get_job(server, submitted).json()["status"] == "pending"


def test_location_and_retry_after(server):
    """The 202 response has a Location, where to poll, and a Retry-After, when to poll."""
    submitted = submit_job(server)
    assert submitted.headers["Location"] == f"/jobs/{submitted.json()['token']}"
    assert submitted.headers["Retry-After"] == "1"
    assert get_job(server, submitted).status_code == 200


def test_pending_is_200(server):
    """A pending job is a 200 with Retry-After; a done one has its result and no Retry-After."""
    pending = get_job(server, submit_job(server, seconds=60))
    assert (pending.status_code, pending.json()["status"]) == (200, "pending")
    assert pending.headers["Retry-After"] == "1"
    done = poll_until(server, submit_job(server, seconds=0), "done")
    assert (done.status_code, done.json()["result"]) == (200, 42)
    assert "Retry-After" not in done.headers


def test_polling_has_no_side_effect(server):
    """A job that has ended can be polled any number of times, with the same response."""
    submitted = submit_job(server, seconds=0)
    first = poll_until(server, submitted, "done")
    assert [get_job(server, submitted).json() for _ in range(3)] == [first.json()] * 3


@pytest.mark.parametrize("name", JOB_SERVERS)
def test_tokens_cannot_be_guessed(start, name):
    """A token is 22 characters of an alphabet of 64, and all of several hundred differ."""
    url = start(name, MAX_JOBS_PER_OWNER=1000, MAX_PER_OWNER=1000).url
    with httpx2.Client(base_url=url, headers=ALICE) as client:
        tokens = [client.post("/jobs", json={"seconds": 0}).json()["token"] for _ in range(200)]
    assert len(set(tokens)) == 200
    assert {len(token) for token in tokens} == {22}
    # In each position most characters of the alphabet turn up: nothing counts upwards. The last
    # has two bits of the 128 only.
    alphabet = set(string.ascii_letters + string.digits + "-_")
    for column in list(zip(*tokens, strict=True))[:-1]:
        assert set(column) <= alphabet and len(set(column)) > 48


def test_an_unknown_token_is_404(server):
    """An unknown token is a 404 with a JSON body, never an empty success."""
    response = httpx2.get(f"{server.url}/jobs/made-up")
    assert response.status_code == 404
    assert response.json()["message"] == "unknown token"


def test_without_a_key_each_request_starts_a_job(server):
    """On the quick-start server the same request sent twice starts two jobs."""
    key = {"Idempotency-Key": "one"}
    assert submit_job(server, key).json() != submit_job(server, key).json()


def test_a_taken_port_ends_a_server(server):
    """A server whose port is taken ends at once; the last line that it prints is `OSError`,
    *Address already in use*."""
    ran = subprocess.run(
        [sys.executable, "server.py"],
        cwd=EXAMPLES / "token",
        env=environment(PORT=server.port, PYTHONWARNINGS=""),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert re.fullmatch(r"OSError: \[Errno \d+\] Address already in use", last)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_stops_cleanly_with_jobs_running(start, name, number):
    """The server stops on SIGTERM and SIGINT with jobs still running, and leaves no task."""
    server = start(f"token/{name}")
    submit_job(server, ALICE, seconds=60)
    assert server.stop(number) == 0


def test_cors_allows_any_origin(server):
    """A page of any origin may read the quick-start server's responses and all of their headers;
    a request without an Origin gets no CORS headers but Vary."""
    for origin in "null", "https://example.com":
        headers = {"Origin": origin}
        for response in (
            submit_job(server, headers),
            httpx2.get(f"{server.url}/jobs/x", headers=headers),
        ):
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert response.headers["Access-Control-Expose-Headers"] == "*"
            assert response.headers["Vary"] == "Origin"
    response = submit_job(server)
    assert response.headers["Vary"] == "Origin"
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("name", FAILING)
def test_fail_is_a_boolean(start, name):
    """The server rejects a `fail` that is neither true nor false with 400."""
    url = f"{start(name).url}/jobs"
    for fail in "yes", 1, None:
        response = httpx2.post(url, json={"seconds": 0, "fail": fail}, headers=ALICE)
        assert response.status_code == 400


@pytest.mark.parametrize("name", SLEEPING)
def test_jobs_are_cancelled_when_the_server_stops(name, tmp_path, port):
    """When a server stops, each running job is cancelled and so can clean up."""
    source = (EXAMPLES / name).read_text()
    slow = r"(?m)^( +)(await asyncio\.sleep\(seconds.*\))$"
    assert re.search(slow, source)
    folder = tmp_path / "alone"
    folder.mkdir()
    reports = (
        r"\1try:\n\1    \2\n"
        r"\1except asyncio.CancelledError:\n\1    print('cleaned up', flush=True)\n\1    raise"
    )
    (folder / "server.py").write_text(re.sub(slow, reports, source, count=1))
    number = port()
    program = Program([sys.executable, "server.py"], folder, environment(PORT=number), number)
    program.wait_for(*READY)
    submit_job(program, ALICE, seconds=60)
    assert program.stop() == 0
    assert "cleaned up" in program.output


def test_another_instance_does_not_know_the_token(server, start):
    """A second instance of the server responds with 404 for a job of the first."""
    other = start("token/server.py")
    assert get_job(other, submit_job(server)).status_code == 404


# The hardened server


def test_the_hardened_programs_extend_the_quick_start(record):
    """The hardened programs have the functions of the quick start, in the same order, CORS headers
    aside."""
    for kind in "server", "client":
        quick, hardened = f"token/{kind}.py", f"token/{kind}_hardened.py"
        kept = [name for name in functions(quick) if name != "add_cors_headers"]
        assert [name for name in functions(hardened) if name in kept] == kept
    record("token/hardened.diff", diff("token/server.py", "token/server_hardened.py"))


@pytest.fixture
def impatient(start):
    """Return a hardened server of the test's own, which keeps results for a moment."""
    variables = {"RESULT_TTL": 1.5, "TOMBSTONE_TTL": 3, "MAX_JOBS_PER_OWNER": 2}
    return start("token/server_hardened.py", **variables)


def test_a_failed_job_is_200(hardened):
    """A job that failed is a 200 whose status is `failed`: the request for it succeeded."""
    submitted = submit_job(hardened, ALICE, seconds=0, fail=True)
    failed = poll_until(hardened, submitted, "failed", ALICE)
    assert failed.status_code == 200
    assert failed.json()["error"] == "the job was set to fail"
    assert "Retry-After" not in failed.headers


def test_a_token_grants_no_access(hardened):
    """The response for another owner's token is a 404, byte for byte that for an unknown one."""
    submitted = submit_job(hardened, ALICE)
    assert get_job(hardened, submitted, ALICE).status_code == 200
    theirs = get_job(hardened, submitted, BOB)
    unknown = httpx2.get(f"{hardened.url}/jobs/made-up", headers=BOB)
    assert theirs.status_code == 404
    assert theirs.headers == unknown.headers
    assert theirs.content == unknown.content
    assert theirs.json()["message"] == "unknown token"


def test_a_request_without_an_api_key_is_401(hardened):
    """A request without a valid API key is a 401 that names the scheme."""
    for headers in None, {"Authorization": "Bearer nobody"}:
        response = httpx2.get(f"{hardened.url}/jobs/made-up", headers=headers)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"


def test_a_result_expires(impatient):
    """A result is kept for a while, then its token is a 410 with advice, then a 404."""
    submitted = submit_job(impatient, ALICE, seconds=0)
    assert poll_until(impatient, submitted, "done", ALICE).json()["result"] == 42
    gone = poll_until(impatient, submitted, 410, ALICE)
    assert "submit the job again" in gone.json()["message"]
    poll_until(impatient, submitted, 404, ALICE)


def test_an_idempotency_key_starts_one_job(hardened):
    """The same request with the same Idempotency-Key returns the job that it started before."""
    key = {"Idempotency-Key": "one"}
    first = submit_job(hardened, ALICE | key)
    again = submit_job(hardened, ALICE | key)
    assert again.headers["Location"] == first.headers["Location"]
    assert submit_job(hardened, ALICE | {"Idempotency-Key": "two"}).json() != first.json()
    assert submit_job(hardened, ALICE).json() != submit_job(hardened, ALICE).json()


def test_an_idempotency_key_belongs_to_its_owner(hardened):
    """Two owners may use the same Idempotency-Key; each has a job of their own."""
    key = {"Idempotency-Key": "four"}
    assert submit_job(hardened, ALICE | key).json() != submit_job(hardened, BOB | key).json()


def test_an_idempotency_key_of_another_request_is_422(hardened):
    """An Idempotency-Key that was used for another request is a 422, and starts nothing."""
    headers = ALICE | {"Idempotency-Key": "three"}
    submit_job(hardened, headers, seconds=60)
    other = httpx2.post(f"{hardened.url}/jobs", json={"seconds": 59}, headers=headers)
    assert other.status_code == 422
    assert "another request" in other.json()["message"]


def test_jobs_per_owner_are_limited(impatient):
    """An owner with too many jobs gets 429 with Retry-After, other owners are served, and
    expiry makes room again."""
    jobs = [submit_job(impatient, ALICE, seconds=0) for _ in range(2)]
    rejected = httpx2.post(f"{impatient.url}/jobs", json={"seconds": 0}, headers=ALICE)
    assert rejected.status_code == 429
    assert rejected.headers["Retry-After"] == "2"  # results are kept for 1.5 s
    submit_job(impatient, BOB)
    for job in jobs:
        poll_until(impatient, job, 410, ALICE)
    submit_job(impatient, ALICE)


def test_the_hardened_server_keeps_the_contract(hardened):
    """The hardened server responds as the quick start does: Location, Retry-After, pending,
    done, and also failed."""
    submitted = submit_job(hardened, ALICE, seconds=60)
    token = submitted.json()["token"]
    assert submitted.headers["Location"] == f"/jobs/{token}"
    assert submitted.headers["Retry-After"] == "1"
    pending = get_job(hardened, submitted, ALICE)
    assert pending.headers["Retry-After"] == "1"
    assert pending.json() == {"token": token, "status": "pending"}
    for fail, end in [
        (False, {"status": "done", "result": 42}),
        (True, {"status": "failed", "error": "the job was set to fail"}),
    ]:
        submitted = submit_job(hardened, ALICE, seconds=0, fail=fail)
        response = poll_until(hardened, submitted, end["status"], ALICE)
        assert response.status_code == 200
        assert response.json() == {"token": submitted.json()["token"]} | end
        assert "Retry-After" not in response.headers


def test_an_idempotency_key_expires_with_its_job(impatient):
    """Once a job has expired its Idempotency-Key starts a new one."""
    headers = ALICE | {"Idempotency-Key": "short-lived"}
    first = submit_job(impatient, headers, seconds=0)
    poll_until(impatient, first, 410, ALICE)
    assert submit_job(impatient, headers, seconds=0).json() != first.json()


# The clients


def test_the_client_submits_and_polls(server, tap, run, record):
    """The client submits a job, polls it until it is done, and prints its result."""
    wire = tap(server)
    result = run("token/client.py", URL=wire.url)
    assert result.returncode == 0
    found = messages(wire.events)
    assert [label(m).split("/")[0] for m in found] == [
        "POST ",
        "202 pending",
        "GET ",
        "200 pending",
        "GET ",
        "200 done",
    ]
    record("token/client.txt", result.stdout)
    record("token/wire.html", transcript(found, "The token on the wire"))
    names = ["submit", "poll, pending", "poll, done"]
    record(
        "token/costs.md",
        table(
            [
                {
                    "request": name,
                    "bytes up": len(request.data),
                    "bytes down": len(response.data),
                    "round trips": 1,
                }
                for name, (request, response) in zip(names, exchanges(found), strict=True)
            ]
        ),
    )


def test_the_figure_is_drawn_from_a_run(server, run, tap, record):
    """The figure on the token's page is drawn from a run of the programs on it."""
    wire = tap(server)
    run("token/client.py", URL=wire.url)
    drawn = trace(messages(wire.events), unit=1, job=[0, 1.5])
    record("token/timeline.json", drawn)
    record(
        "token/timeline.svg",
        sequence_diagram(
            drawn,
            "A job that is submitted and polled",
            "The client submits a job and receives 202 at once. It polls after one second and "
            "receives pending; it polls after two seconds and receives the result. The job ended "
            "after one and a half seconds.",
        ),
    )


def test_curl_submits_and_polls(server, run, record):
    """The client of curl gets a Location, then pending, then done."""
    result = run("token/client.sh", URL=server.url)
    assert result.returncode == 0
    location, first, last = result.stdout.splitlines()
    assert "/jobs/" in location
    assert '"status":"pending"' in first
    assert '"status":"done"' in last
    record("token/curl.txt", result.stdout)


def test_a_lost_response_does_not_start_a_second_job(start, tap, run):
    """When the response to the POST is lost, the client repeats it with the same key, and the
    server has one job."""
    server = start("token/server_hardened.py", MAX_JOBS_PER_OWNER=1)
    responses = []

    def lose_the_first_response(event):
        if event.source == "server":
            responses.append(event)
            return len(responses) > 1

    wire = tap(server, on_data=lose_the_first_response)
    result = run("token/client_hardened.py", URL=wire.url, SECONDS=0.5)
    assert result.returncode == 0, result.stderr
    # There is room for one job, so a second one would have been a 429.
    assert len(responses) >= 3
    lines = result.stdout.splitlines()
    assert lines[0] == "retrying: ReadError" and lines[-1] == "done: 42"


PENDING = (202, {"Location": "/jobs/x", "Retry-After": "0"}, {"status": "pending"})
DONE = (200, {}, {"status": "done", "result": 42})
PYTHON = [
    "token/client.py",
    "token/client_hardened.py",
    "short_polling/client.py",
    "short_polling/client_hardened.py",
    "long_polling/client.py",
]


def test_the_client_reports_why_a_job_failed(canned, run):
    """The hardened client whose job failed prints the reason in one line and exits with 1."""
    server = canned(PENDING, (200, {}, {"status": "failed", "error": "no paper"}))
    result = run("token/client_hardened.py", URL=server.url)
    assert result.returncode == 1
    assert result.stderr == "the job failed: no paper\n"


def test_the_client_obeys_retry_after(canned, run):
    """The hardened client waits as long as Retry-After specifies, before the first poll and
    after it."""
    submitted = (202, {"Location": "/jobs/x", "Retry-After": "1"}, {"status": "pending"})
    later = (200, {"Retry-After": "2"}, {"status": "pending"})
    server = canned(submitted, later, DONE)
    assert run("token/client_hardened.py", URL=server.url).returncode == 0
    assert server.times[1] - server.times[0] >= 1
    assert server.times[2] - server.times[1] >= 2


def test_the_client_has_a_deadline(hardened, run):
    """The hardened client gives up at its deadline and reports it."""
    result = run("token/client_hardened.py", URL=hardened.url, SECONDS=60, DEADLINE=1.5)
    assert result.returncode == 1
    assert result.stderr == "the job was not done within 1.5 s\n"


@pytest.mark.parametrize("name", PYTHON)
def test_a_client_resolves_a_relative_location(canned, run, name):
    """A client resolves a relative Location against the URL of its request."""
    server = canned((202, {"Location": "jobs/x", "Retry-After": "0"}, {"status": "pending"}), DONE)
    assert run(name, URL=f"{server.url}/under/a/prefix", INTERVAL=0.1).returncode == 0
    assert server.requests[1][:2] == ("GET", "/under/a/prefix/jobs/x")


@pytest.mark.parametrize("name", PYTHON)
def test_ctrl_c_ends_a_client_without_a_traceback(name, start, tmp_path):
    """Ctrl-C ends a client with exit code 130 and without a traceback."""
    # The hardened short-polling client would get a Retry-After of 30 s from its own server.
    kind = "server_hardened.py" if name == "token/client_hardened.py" else "server.py"
    server = start(f"{name.split('/')[0]}/{kind}")
    folder = copy_isolated(EXAMPLES / name, tmp_path / "client")
    variables = environment(URL=server.url, SECONDS=60, WAIT=1)
    program = Program([sys.executable, name.split("/")[1]], folder, variables)
    # It waits now for its next poll. While a response comes in, asyncio may fail to stop cleanly.
    program.wait_for("pending")
    assert program.stop(signal.SIGINT) == 130


def test_the_client_sends_its_api_key(hardened, run):
    """The hardened client sends the API key from its environment; with a wrong one it reports
    401."""
    result = run("token/client_hardened.py", URL=hardened.url, KEY="wrong")
    assert result.returncode == 1
    assert result.stderr == f"{hardened.url} responded with 401\n"


def test_each_job_has_its_own_idempotency_key(canned, run):
    """Each run of the hardened client makes a new Idempotency-Key."""
    server = canned(PENDING, DONE, PENDING, DONE)
    for _ in range(2):
        assert run("token/client_hardened.py", URL=server.url).returncode == 0
    keys = [
        headers["idempotency-key"] for method, _, headers in server.requests if method == "POST"
    ]
    assert len(set(keys)) == 2


# The browser


@both_browsers
def test_the_browser_submits_and_polls(open_client_page, server, tap):
    """The page, opened as a file, submits a job, polls it, and polls an unknown token."""
    wire = tap(server)
    page = open_client_page(wire.url)
    assert page.is_disabled("#poll")
    page.click("#submit")
    page.wait_for_selector("text=202 {")
    page.click("#poll")
    page.wait_for_selector("text=200 {")
    page.click("#guess")
    page.wait_for_selector("text=404 {")
    submitted, polled, guessed = [m for m in messages(wire.events) if m.source == "client"]
    assert submitted.json == {"seconds": 5}
    assert polled.method == guessed.method == "GET"
    assert guessed.target == "/jobs/made-up"


def test_the_browser_reports_an_unreachable_server(open_client_page, port):
    """When no server responds the page reports it."""
    page = open_client_page(f"http://127.0.0.1:{port()}")
    page.click("#submit")
    page.wait_for_selector("text=cannot reach")
