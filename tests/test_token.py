"""The token: a server answers before it has finished, and says where to ask later."""

import re
import signal
import string
import sys
import time

import httpx2
import pytest

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

# Those whose jobs can be told to fail.
FAILING = [name for name in JOB_SERVERS if name in named("server*.py", '"fail"')]
ALICE = {"Authorization": "Bearer alice-key"}
BOB = {"Authorization": "Bearer bob-key"}


@pytest.fixture(scope="module")
def server(start_shared):
    """Return the plain token server, running."""
    return start_shared("token/server.py")


@pytest.fixture(scope="module")
def roomy(start_shared):
    """Return the hardened token server, running."""
    return start_shared("token/server_hardened.py")


def submit(server, headers=None, **job):
    answer = httpx2.post(f"{server.url}/jobs", json=job or {"seconds": 60}, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer


def ask(server, submitted, headers=None):
    return httpx2.get(server.url + submitted.headers["Location"], headers=headers)


def wait_for(server, submitted, status, headers=None):
    """Ask until the job has this status or HTTP status; return the answer."""
    while True:
        answer = ask(server, submitted, headers)
        if status in (answer.status_code, answer.json().get("status")):
            return answer
        assert answer.status_code != 404, f"never {status}, and now gone"
        time.sleep(0.05)


# The plain server


def test_answers_before_the_job_is_done(server):
    """The server answers 202 while the job still runs."""
    submitted = submit(server, seconds=60)
    assert submitted.status_code == 202
    assert submitted.json()["status"] == "pending"
    assert ask(server, submitted).json()["status"] == "pending"


def test_says_where_and_when_to_ask(server):
    """The answer says where to ask (Location) and when (Retry-After)."""
    submitted = submit(server)
    assert submitted.headers["Location"] == f"/jobs/{submitted.json()['token']}"
    assert submitted.headers["Retry-After"] == "1"
    assert ask(server, submitted).status_code == 200


def test_pending_is_a_success(server):
    """A pending job is a 200 with Retry-After; a done one has the result and no Retry-After."""
    pending = ask(server, submit(server, seconds=60))
    assert (pending.status_code, pending.json()["status"]) == (200, "pending")
    assert pending.headers["Retry-After"] == "1"
    done = wait_for(server, submit(server, seconds=0), "done")
    assert (done.status_code, done.json()["result"]) == (200, 42)
    assert "Retry-After" not in done.headers


def test_asking_changes_nothing(server):
    """A job that has ended can be asked about any number of times, and says the same."""
    submitted = submit(server, seconds=0)
    first = wait_for(server, submitted, "done")
    assert [ask(server, submitted).json() for _ in range(3)] == [first.json()] * 3


@pytest.mark.parametrize("name", JOB_SERVERS)
def test_tokens_cannot_be_guessed(start, name):
    """A token is 22 characters of an alphabet of 64, no two alike among hundreds."""
    url = start(name, JOBS_PER_OWNER=1000).url
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
    answer = httpx2.get(f"{server.url}/jobs/made-up")
    assert answer.status_code == 404
    assert answer.json()["message"] == "no job has this token"


def test_a_failed_job_is_a_status_and_not_a_500(server):
    """A job that failed is a 200 that says so: the question was answered."""
    failed = wait_for(server, submit(server, seconds=0, fail=True), "failed")
    assert failed.status_code == 200
    assert failed.json()["error"] == "the job was told to fail"
    assert "Retry-After" not in failed.headers


def test_the_plain_server_starts_a_job_for_each_request(server):
    """Without more, the same request sent twice starts two jobs."""
    key = {"Idempotency-Key": "one"}
    assert submit(server, key).json() != submit(server, key).json()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_stops_cleanly_with_jobs_running(start, name, number):
    """The server stops on SIGTERM and SIGINT with jobs still running, and leaves no task."""
    server = start(f"token/{name}")
    submit(server, ALICE, seconds=60)
    assert server.stop(number) == 0


def test_any_page_may_read_the_answers(server):
    """A page from anywhere may read the plain server's answers; without an Origin there is no
    word of it."""
    for origin in "null", "https://example.com":
        answer = httpx2.post(f"{server.url}/jobs", json={"seconds": 0}, headers={"Origin": origin})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Expose-Headers"] == "Location, Retry-After"
    assert not [name for name in submit(server).headers if name.startswith("access-control")]


@pytest.mark.parametrize("name", FAILING)
def test_whether_to_fail_is_true_or_false(start, name):
    """A job is to fail or not: any other value is a 400."""
    url = f"{start(name).url}/jobs"
    for fail in "yes", 1, None:
        answer = httpx2.post(url, json={"seconds": 0, "fail": fail}, headers=ALICE)
        assert answer.status_code == 400


@pytest.mark.parametrize("name", FAILING)
def test_jobs_are_told_when_the_server_stops(name, tmp_path, port):
    """When a server stops, each running job is cancelled and so can clean up after itself."""
    source = (EXAMPLES / name).read_text()
    slow = r"(?m)^( +)(await asyncio\.sleep\(.*\))$"  # the first is that of the work
    assert re.search(slow, source)
    folder = tmp_path / "alone"
    folder.mkdir()
    tells = (
        r"\1try:\n\1    \2\n"
        r"\1except asyncio.CancelledError:\n\1    print('cleaned up', flush=True)\n\1    raise"
    )
    (folder / "server.py").write_text(re.sub(slow, tells, source, count=1))
    number = port()
    program = Program([sys.executable, "server.py"], folder, environment(PORT=number), number)
    program.wait_for(*READY)
    submit(program, ALICE, seconds=60)
    assert program.stop() == 0
    assert "cleaned up" in program.output


def test_another_server_knows_nothing_of_a_job(server, start):
    """A second server knows nothing of a job that was handed in at the first: 404."""
    elsewhere = start("token/server.py")
    assert ask(elsewhere, submit(server)).status_code == 404


# The hardened server


@pytest.fixture
def hardened(start):
    """Return the hardened token server, running, with results kept for a moment."""
    return start("token/server_hardened.py", KEEP=1.5, REMEMBER=3, JOBS_PER_OWNER=2)


def test_the_token_is_no_right(roomy):
    """Someone else's token is a 404, the same to the byte as one that never was."""
    submitted = submit(roomy, ALICE)
    assert ask(roomy, submitted, ALICE).status_code == 200
    theirs = ask(roomy, submitted, BOB)
    unknown = httpx2.get(f"{roomy.url}/jobs/made-up", headers=BOB)
    assert theirs.status_code == 404
    assert theirs.headers == unknown.headers
    assert theirs.content == unknown.content
    assert theirs.json()["message"] == "you have no job with this token"


def test_a_stranger_is_told_to_say_who_they_are(hardened):
    """Without a valid key every answer is a 401 that names the scheme."""
    for headers in None, {"Authorization": "Bearer nobody"}:
        answer = httpx2.get(f"{hardened.url}/jobs/made-up", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_job_nobody_comes_for_expires(hardened):
    """A result is kept for a while, then is a 410 that says what to do, then a 404."""
    submitted = submit(hardened, ALICE, seconds=0)
    assert wait_for(hardened, submitted, "done", ALICE).json()["result"] == 42
    gone = wait_for(hardened, submitted, 410, ALICE)
    assert "submit it again" in gone.json()["message"]
    wait_for(hardened, submitted, 404, ALICE)


def test_a_key_starts_one_job(roomy):
    """The same request with the same Idempotency-Key gets the job that it started before."""
    key = {"Idempotency-Key": "one"}
    first = submit(roomy, ALICE | key)
    again = submit(roomy, ALICE | key)
    assert again.headers["Location"] == first.headers["Location"]
    assert submit(roomy, ALICE | {"Idempotency-Key": "two"}).json() != first.json()
    assert submit(roomy, ALICE).json() != submit(roomy, ALICE).json()


def test_a_key_belongs_to_its_owner(roomy):
    """Two owners may use the same Idempotency-Key; each has a job of their own."""
    key = {"Idempotency-Key": "four"}
    assert submit(roomy, ALICE | key).json() != submit(roomy, BOB | key).json()


def test_a_key_reused_for_another_request_is_422(roomy):
    """An Idempotency-Key that comes with another request is a 422, and starts nothing."""
    headers = ALICE | {"Idempotency-Key": "three"}
    submit(roomy, headers, seconds=60)
    other = httpx2.post(f"{roomy.url}/jobs", json={"seconds": 59}, headers=headers)
    assert other.status_code == 422
    assert "another request" in other.json()["message"]


def test_one_owner_cannot_take_all_the_room(hardened):
    """An owner with too many jobs gets 429 with Retry-After; others are served, and expiry
    makes room again."""
    jobs = [submit(hardened, ALICE, seconds=0) for _ in range(2)]
    refused = httpx2.post(f"{hardened.url}/jobs", json={"seconds": 0}, headers=ALICE)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "2"  # results are kept for 1.5 s
    submit(hardened, BOB)
    for job in jobs:
        wait_for(hardened, job, 410, ALICE)
    submit(hardened, ALICE)


def test_the_hardened_server_keeps_the_contract(roomy):
    """The hardened server answers as the plain one does: where and when to ask, done, failed."""
    submitted = submit(roomy, ALICE, seconds=60)
    token = submitted.json()["token"]
    assert submitted.headers["Location"] == f"/jobs/{token}"
    assert submitted.headers["Retry-After"] == "1"
    pending = ask(roomy, submitted, ALICE)
    assert pending.headers["Retry-After"] == "1"
    assert pending.json() == {"token": token, "status": "pending"}
    for fail, end in [
        (False, {"status": "done", "result": 42}),
        (True, {"status": "failed", "error": "the job was told to fail"}),
    ]:
        submitted = submit(roomy, ALICE, seconds=0, fail=fail)
        answer = wait_for(roomy, submitted, end["status"], ALICE)
        assert answer.status_code == 200
        assert answer.json() == {"token": submitted.json()["token"]} | end
        assert "Retry-After" not in answer.headers


def test_a_key_ends_with_its_job(hardened):
    """Once a job has expired its Idempotency-Key starts a new one."""
    headers = ALICE | {"Idempotency-Key": "short-lived"}
    first = submit(hardened, headers, seconds=0)
    wait_for(hardened, first, 410, ALICE)
    assert submit(hardened, headers, seconds=0).json() != first.json()


# The clients


def test_the_client_hands_in_and_asks(server, tap, run, record):
    """The client gets its token at once, and the result when it asks after the job's end."""
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
    names = ["handing in", "asking, told pending", "asking, told done"]
    record(
        "token/costs.md",
        table(
            [
                {
                    "request": name,
                    "bytes up": len(question.data),
                    "bytes down": len(answer.data),
                    "round trips": 1,
                }
                for name, (question, answer) in zip(names, exchanges(found), strict=True)
            ]
        ),
    )


def test_the_picture_is_drawn_from_a_run(server, run, tap, record):
    """The picture on the token's page is drawn from a run of the programs on it."""
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


def test_curl_hands_in_and_asks(server, run, record):
    """curl is client enough: it gets a token, then pending, then done."""
    result = run("token/client.sh", URL=server.url)
    assert result.returncode == 0
    ask_at, first, last = result.stdout.splitlines()
    assert "/jobs/" in ask_at
    assert '"status":"pending"' in first
    assert '"status":"done"' in last
    record("token/curl.txt", result.stdout)


def test_a_lost_answer_does_not_start_a_second_job(start, tap, run, record):
    """When the answer to the POST is lost, the client sends it again with the same key, and
    the server has one job."""
    server = start("token/server_hardened.py", JOBS_PER_OWNER=1)
    answers = []

    def lose_the_first_answer(event):
        if event.source == "server":
            answers.append(event)
            return len(answers) > 1

    wire = tap(server, on_data=lose_the_first_answer)
    result = run("token/client_hardened.py", URL=wire.url, SECONDS=0.5)
    assert result.returncode == 0, result.stderr
    # The room is for one job, so a second one would have been a 429.
    assert len(answers) >= 3
    lines = result.stdout.splitlines()
    assert lines[0].startswith("no answer") and lines[1] == "202 Accepted"
    record("token/lost-answer.txt", result.stdout)


PENDING = (202, {"Location": "/jobs/x", "Retry-After": "0"}, {"status": "pending"})
DONE = (200, {}, {"status": "done", "result": 42})
PYTHON = [
    "token/client.py",
    "token/client_hardened.py",
    "short_polling/client.py",
    "short_polling/client_hardened.py",
    "long_polling/client.py",
]


@pytest.mark.parametrize("name", PYTHON[:2])
def test_the_client_of_a_failed_job_says_why(canned, run, name):
    """A client whose job failed says why in one line and exits with an error."""
    server = canned(PENDING, (200, {}, {"status": "failed", "error": "no paper"}))
    result = run(name, URL=server.url)
    assert result.returncode == 1
    assert result.stderr == "the job failed: no paper\n"


@pytest.mark.parametrize("name", PYTHON[:2])
def test_the_client_waits_as_long_as_it_is_told(canned, run, name):
    """The client waits as long as Retry-After says: before its first question and after it."""
    submitted = (202, {"Location": "/jobs/x", "Retry-After": "1"}, {"status": "pending"})
    later = (200, {"Retry-After": "2"}, {"status": "pending"})
    server = canned(submitted, later, DONE)
    assert run(name, URL=server.url).returncode == 0
    assert server.times[1] - server.times[0] >= 1
    assert server.times[2] - server.times[1] >= 2


@pytest.mark.parametrize("name", PYTHON)
def test_the_client_resolves_a_relative_location(canned, run, name):
    """A Location may be relative: it counts from the URL that answered."""
    server = canned((202, {"Location": "jobs/x", "Retry-After": "0"}, {}), DONE)
    assert run(name, URL=f"{server.url}/under/a/prefix", INTERVAL=0.1).returncode == 0
    assert server.requests[1][:2] == ("GET", "/under/a/prefix/jobs/x")


@pytest.mark.parametrize("name", PYTHON)
def test_ctrl_c_ends_a_client_quietly(name, start, tmp_path):
    """Ctrl-C ends a client without a traceback, and its exit code says so."""
    # The hardened poller is told half a minute by its own server: too long to wait for here.
    kind = "server_hardened.py" if name == "token/client_hardened.py" else "server.py"
    server = start(f"{name.split('/')[0]}/{kind}")
    folder = copy_isolated(EXAMPLES / name, tmp_path / "client")
    variables = environment(URL=server.url, SECONDS=60, WAIT=1)
    program = Program([sys.executable, name.split("/")[1]], folder, variables)
    # It waits now for the next question. While an answer comes in, asyncio may trip over itself.
    program.wait_for("pending")
    assert program.stop(signal.SIGINT) == 130


def test_the_key_in_the_environment_is_used(roomy, run):
    """The hardened client says who it is with the key it was given; a wrong one is a 401."""
    result = run("token/client_hardened.py", URL=roomy.url, KEY="wrong")
    assert result.returncode == 1
    assert "answered 401" in result.stderr


def test_each_job_has_a_key_of_its_own(canned, run):
    """Each run of the hardened client makes up another Idempotency-Key."""
    server = canned(PENDING, DONE, PENDING, DONE)
    for _ in range(2):
        assert run("token/client_hardened.py", URL=server.url).returncode == 0
    keys = [
        headers["idempotency-key"] for method, _, headers in server.requests if method == "POST"
    ]
    assert len(set(keys)) == 2


# The browser


def test_the_browser_hands_in_and_asks(open_client_page, server, tap):
    """The page, opened as a file, hands in a job, asks about it, and about one that never was."""
    wire = tap(server)
    page = open_client_page(wire.url)
    assert page.is_disabled("#ask")
    page.click("#submit")
    page.wait_for_selector("text=202 {")
    page.click("#ask")
    page.wait_for_selector("text=200 {")
    page.click("#guess")
    page.wait_for_selector("text=404 {")
    handed_in, asked, guessed = [m for m in messages(wire.events) if m.source == "client"]
    assert handed_in.json == {"seconds": 5}
    assert asked.method == guessed.method == "GET"
    assert guessed.target == "/jobs/made-up"


def test_the_browser_says_when_nobody_answers(open_client_page, port):
    """When no server answers the page says so."""
    page = open_client_page(f"http://127.0.0.1:{port()}")
    page.click("#submit")
    page.wait_for_selector("text=No answer from")
