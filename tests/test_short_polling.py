"""Short polling: the client polls at an interval, and the server responds at once."""

import csv
import json
import runpy
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import httpx2
import pytest

from .support.browsing import both_browsers, enter
from .support.diffs import diff, functions
from .support.figures import chart, readable_alone
from .support.messages import counts, exchanges, label, late, messages, table, trace, transcript
from .support.processes import EXAMPLES, LEFT, OPEN, established, wait_until
from .support.sequence import sequence_diagram
from .support.threads import run_in_thread
from .support.wiretap import Run


@pytest.fixture(scope="module")
def server(start_shared):
    """Return the quick-start server, running."""
    return start_shared("short_polling/server.py")


@pytest.fixture(scope="module", autouse=True)
def runs(server, start_shared, tap_shared, run_shared):
    """Return a Run of each client, as a reader runs it; they mostly wait, so they wait together.

    A job of 4.5 intervals ends as far as can be from the moments at which it is polled. These are
    two seconds, so that a busy machine, which is late each time, finds the same.
    """
    hardened = start_shared("short_polling/server_hardened.py")
    with ThreadPoolExecutor() as beside:

        def run_beside(name, server, **variables):
            wire, name = tap_shared(server), f"short_polling/{name}"
            return Run(wire, beside.submit(run_shared, name, URL=wire.url, **variables).result)

        yield {
            "sweep.py": run_beside("sweep.py", server),
            "as it is": run_beside("client.py", server),
            "client.py": run_beside("client.py", server, INTERVAL=2, SECONDS=9),
            "client_hardened.py": run_beside("client_hardened.py", hardened),
            # Starting curl takes time as well, so the job ends late in the last interval.
            "client.sh": run_beside("client.sh", server, INTERVAL=2, SECONDS_OF_WORK=9.7),
        }


def submit_job(url, seconds):
    response = httpx2.post(f"{url}/jobs", json={"seconds": seconds})
    assert response.status_code == 202, response.text
    return url + response.headers["Location"]


def poll_until_done(url):
    while (response := httpx2.get(url)).json()["status"] == "pending":
        time.sleep(0.02)
    return response


# The quick start


def test_the_server_responds_at_once(server):
    """The server responds to each of twenty polls while the job is still running."""
    job = submit_job(server.url, 60)
    assert {httpx2.get(job).json()["status"] for _ in range(20)} == {"pending"}


# --8<-- [start:polls]
def test_polls_until_the_job_is_done(runs, record):
    """A job of 4.5 intervals takes five polls: four return `pending`, the fifth `done`."""
    result = runs["client.py"].result()
    assert result.returncode == 0
    found = messages(runs["client.py"].wire.events)
    responses = [label(response) for _, response in exchanges(found)]
    assert responses == ["202 pending"] + ["200 pending"] * 4 + ["200 done"]
    record("short_polling/client.txt", result.stdout)
    # --8<-- [end:polls]
    drawn = trace(found, 2, [0, 4.5])
    record("short_polling/timeline.json", drawn)
    figure = sequence_diagram(
        drawn,
        "Short polling, drawn from a run",
        "The client submits a job at 0 and receives 202 pending. It polls at 1, 2, 3 and 4 "
        "seconds; each response is pending. The job ends at 4.5 seconds. The client receives "
        "done when it polls again, at 5 seconds: half a second late.",
    )
    record("short_polling/timeline.svg", figure)
    record("short_polling/readme.svg", readable_alone(figure))


def test_the_exchange_on_the_wire(runs, record):
    """The job is submitted by POST, and each poll is a GET of its URL, a whole request."""
    assert runs["as it is"].result().returncode == 0
    found = messages(runs["as it is"].wire.events)
    shown = found[:4] + found[-2:]
    assert [message.method for message in shown[::2]] == ["POST", "GET", "GET"]
    record("short_polling/wire.html", transcript(shown, "Short polling on the wire"))


def test_waits_one_interval_between_polls(server, tap, run):
    """Between two polls the client waits one interval."""
    wire = tap(server)
    run("short_polling/client.py", URL=wire.url, SECONDS=0.7, INTERVAL=0.3)
    pairs = exchanges(messages(wire.events))
    for (_, response), (request, _) in pairwise(pairs):
        assert request.at - response.at >= 0.29


def test_the_server_sends_responses_only(server, tap):
    """The server sends nothing but responses to requests, also when the job is done."""
    wire = tap(server)
    with httpx2.Client() as client:  # keeps its connection open, so the server could
        job = submit_job(wire.url, 0.3)
        client.get(job)
        poll_until_done(job)
        sources = [m.source for m in messages(wire.events)]
        assert sources == ["client", "server"] * (len(sources) // 2)
        assert wire.events[-1].kind != "reset"


def test_costs(runs, record):
    """The Python client polls over one connection and curl over one for each poll; a client that
    obeys Retry-After sends one poll instead of five, over a new connection after so long a
    pause."""
    clients = {name: runs[name] for name in ("client.py", "client.sh", "client_hardened.py")}
    assert [run.result().returncode for run in clients.values()] == [0, 0, 0]
    assert [run.wire.connections for run in clients.values()] == [1, 6, 2]

    def row(name, run):
        found = messages(run.wire.events)
        return (
            {"client": f"`{name}`"} | counts(run.wire) | {"late, in intervals": late(found, 9, 2)}
        )

    # curl sends its version, which differs from machine to machine; its delay depends on how
    # quickly it starts, that of the hardened client on chance.
    varies = {
        "client.sh": ["bytes up", "bytes down", "late, in intervals"],
        "client_hardened.py": ["late, in intervals"],
    }
    rows = [
        row(name, run) | dict.fromkeys(varies.get(name, []), "–") for name, run in clients.items()
    ]
    assert [r["requests"] for r in rows] == [6, 6, 2]
    record("short_polling/costs.md", table(rows))


# The hardened server


def test_the_hardened_programs_extend_the_quick_start(record):
    """The hardened programs have the functions of the quick start, in the same order, CORS headers
    aside."""
    for kind in "server", "client":
        quick, hardened = f"short_polling/{kind}.py", f"short_polling/{kind}_hardened.py"
        kept = [name for name in functions(quick) if name != "add_cors_headers"]
        assert [name for name in functions(hardened) if name in kept] == kept
    record(
        "short_polling/hardened.diff",
        diff("short_polling/server.py", "short_polling/server_hardened.py"),
    )


def test_the_server_suggests_when_to_poll(start):
    """The hardened server suggests the time that the job still needs, and at most 30 s."""
    server = start("short_polling/server_hardened.py")
    for seconds, suggested in [(0, "1"), (0.5, "1"), (10, "10"), (60, "30")]:
        submitted = httpx2.post(f"{server.url}/jobs", json={"seconds": seconds})
        assert submitted.headers["Retry-After"] == suggested
    job = submit_job(server.url, 3)
    counted_down = {httpx2.get(job).headers["Retry-After"]}
    while (response := httpx2.get(job)).json()["status"] == "pending":
        counted_down.add(response.headers["Retry-After"])
        time.sleep(0.1)
    assert counted_down == {"3", "2", "1"}
    assert "Retry-After" not in response.headers


def test_a_client_that_obeys_retry_after_polls_once(start, tap, run, record):
    """A client that obeys Retry-After polls once, when the job is done."""
    wire = tap(start("short_polling/server_hardened.py"))
    result = run("short_polling/client_hardened.py", URL=wire.url, SECONDS=1.5)
    responses = [label(response) for _, response in exchanges(messages(wire.events))]
    assert responses == ["202 pending", "200 done"]
    record("short_polling/client_hardened.txt", result.stdout)


def test_an_unchanged_job_is_304_without_a_body(server, start, tap, record):
    """If-None-Match with the last ETag returns 304 without a body while nothing has changed, and
    200 with another ETag once the job is done."""
    hardened = start("short_polling/server_hardened.py")
    plain, wire = tap(server), tap(hardened)
    with httpx2.Client() as client:
        client.get(plain.url + submit_job(server.url, 60).removeprefix(server.url))
        job = wire.url + submit_job(hardened.url, 1).removeprefix(hardened.url)
        first = client.get(job)
        known = {"If-None-Match": first.headers["ETag"]}
        unchanged = client.get(job, headers=known)
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert unchanged.headers["ETag"] == first.headers["ETag"]
        while (changed := client.get(job, headers=known)).status_code == 304:
            time.sleep(0.05)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != first.headers["ETag"]
    again = httpx2.get(job, headers={"If-None-Match": changed.headers["ETag"]})
    assert again.status_code == 304
    pairs = exchanges(messages(wire.events))[:2]
    record(
        "short_polling/not_modified.html",
        transcript([m for pair in pairs for m in pair], "A conditional request"),
    )
    names = ["`server.py`, 200", "with an ETag, 200", "conditional, 304"]
    sizes = [
        (len(request.data), len(response.data))
        for request, response in [*exchanges(messages(plain.events)), *pairs]
    ]
    rows = [
        {"poll": name, "bytes up": up, "bytes down": down, "both": up + down}
        for name, (up, down) in zip(names, sizes, strict=True)
    ]
    record("short_polling/not_modified.md", table(rows))
    # Little is saved where the body is small: the ETag and the condition cost bytes as well.
    assert rows[2]["both"] < rows[0]["both"] < rows[1]["both"]


def test_if_none_match_may_be_weak_or_a_list(start):
    """If-None-Match may be the weak ETag, a list that contains the ETag, or `*`: the response is
    304, and 200 for others."""
    job = submit_job(start("short_polling/server_hardened.py").url, 60)
    for condition, status in [
        ('"pending"', 304),
        ('W/"pending"', 304),
        ('"x", "pending"', 304),
        ("*", 304),
        ('"done"', 200),
        ("pending", 200),
        ("", 200),
    ]:
        assert httpx2.get(job, headers={"If-None-Match": condition}).status_code == status


def test_only_this_client_may_store_the_response(start, cached_statuses, canned):
    """A response with an ETag may be stored by the client that sent the request, and by no shared
    cache: an nginx that caches does not store it."""
    job = submit_job(start("short_polling/server_hardened.py").url, 60)
    assert httpx2.get(job).headers["Cache-Control"] == "private, no-cache"
    assert cached_statuses(job) == ["MISS", "MISS"]
    assert cached_statuses(canned((200, {"ETag": '"1"'}, "")).url + "/") == ["MISS", "HIT"]


def test_the_client_sends_conditional_requests(canned, run):
    """The hardened client sends the last ETag in If-None-Match, and keeps the job on 304."""
    pending = (200, {"ETag": '"1"', "Retry-After": "0"}, {"status": "pending"})
    unchanged = (304, {"ETag": '"1"', "Retry-After": "0"}, "")
    done = (200, {"ETag": '"2"'}, {"status": "done", "result": 42})
    server = canned(PENDING, pending, unchanged, done)
    result = run("short_polling/client_hardened.py", URL=server.url)
    assert result.returncode == 0
    sent = [headers.get("if-none-match") for _, _, headers in server.requests]
    assert sent == [None, None, '"1"', '"1"']
    assert "304 pending" in result.stdout


def test_a_browser_sends_conditional_requests_by_itself(start, tap, page):
    """A browser's fetch sends If-None-Match by itself, and turns the 304 into the stored 200."""
    wire = tap(start("short_polling/server_hardened.py"))
    job = submit_job(wire.url, 60)
    page.goto(job)
    for _ in range(2):
        status = page.evaluate("url => fetch(url).then((response) => response.status)", job)
        assert status == 200
    statuses = [
        response.status
        for request, response in exchanges(messages(wire.events))
        if request.target in job
    ]
    assert statuses[-1] == 304


# Failures


def test_a_failed_job_is_200(start):
    """A job that failed is a 200 whose status is `failed`: polling again would not help."""
    url = start("short_polling/server_hardened.py").url
    submitted = httpx2.post(f"{url}/jobs", json={"seconds": 0, "fail": True})
    failed = poll_until_done(url + submitted.headers["Location"])
    assert failed.status_code == 200
    assert failed.json()["status"] == "failed"
    assert failed.json()["error"] == "the job was set to fail"


PENDING = (202, {"Location": "/jobs/x", "Retry-After": "0"}, {"status": "pending"})
DONE = (200, {}, {"status": "done", "result": 42})


def test_the_client_reports_why_a_job_failed(canned, run):
    """The hardened client reports in one line why its job failed, and exits with an error."""
    server = canned(PENDING, (200, {}, {"status": "failed", "error": "no paper"}))
    result = run("short_polling/client_hardened.py", URL=server.url)
    assert result.returncode == 1
    assert result.stderr == "the job failed: no paper\n"


def test_obeys_retry_after(canned, run):
    """After a 503 to a poll, and after a 429 to a submission, the hardened client waits as long as
    Retry-After specifies and retries."""
    many = (429, {"Retry-After": "1"}, {"status": 429})
    busy = (503, {"Retry-After": "1"}, {"status": 503})
    server = canned(many, PENDING, busy, DONE)
    result = run("short_polling/client_hardened.py", URL=server.url)
    assert result.returncode == 0
    assert [method for method, _, _ in server.requests] == ["POST", "POST", "GET", "GET"]
    assert server.times[1] - server.times[0] >= 1
    assert server.times[3] - server.times[2] >= 1
    assert result.stdout.count("retrying: 429") == 1
    assert result.stdout.count("retrying: 503") == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_retries_a_poll_that_failed(canned, run, status):
    """A poll is retried after 408, 425, 429, 500, 502, 503 and 504."""
    server = canned(PENDING, (status, {"Retry-After": "0"}, {}), DONE)
    assert run("short_polling/client_hardened.py", URL=server.url).returncode == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_does_not_retry_other_errors(canned, run, status):
    """A poll is not retried after 400, 401, 403, 404 and 410."""
    server = canned(PENDING, (status, {"Retry-After": "0"}, {}))
    result = run("short_polling/client_hardened.py", URL=server.url)
    assert result.returncode == 1
    assert f"responded with {status}" in result.stderr
    assert len(server.requests) == 2


def test_retries_a_poll_whose_response_was_lost(server, tap, run):
    """A poll whose response was lost is retried."""
    responses = []

    def lose_the_second_response(event):
        if event.source == "server":
            responses.append(event)
            return len(responses) != 2

    wire = tap(server, on_data=lose_the_second_response)
    result = run("short_polling/client_hardened.py", URL=wire.url, SECONDS=0.5)
    assert result.returncode == 0
    assert "retrying: ReadError" in result.stdout


def test_a_submission_is_retried_only_if_it_was_rejected(canned, run):
    """A submission is retried after 408, 425 and 429, which reject it, and not after 500, 502, 503
    and 504, after which the job may have started."""
    soon = {"Retry-After": "0"}
    server = canned(*[(status, soon, {}) for status in (408, 425, 429)], PENDING, DONE)
    assert run("short_polling/client_hardened.py", URL=server.url).returncode == 0
    assert [method for method, _, _ in server.requests] == ["POST"] * 4 + ["GET"]
    for status in 500, 502, 503, 504:
        server = canned((status, soon, {}), PENDING, DONE)
        result = run("short_polling/client_hardened.py", URL=server.url)
        assert result.returncode == 1
        assert len(server.requests) == 1


@pytest.fixture
def backoff_delay():
    """Return the hardened client's function backoff_delay(failures, suggested)."""
    return runpy.run_path(str(EXAMPLES / "short_polling/client_hardened.py"))["backoff_delay"]


def test_backs_off_exponentially_with_jitter(backoff_delay):
    """Without Retry-After the delay is random, up to a bound that doubles with each failure and
    stops at 30 seconds."""
    for failures, bound in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (50, 30)]:
        delays = [backoff_delay(failures, None) for _ in range(1000)]
        assert all(0 <= delay <= bound for delay in delays)
        # Spread over all of it: each tenth of the range is hit.
        assert {int(delay / bound * 10) for delay in delays} >= set(range(10))


def test_failures_in_a_row_are_counted():
    """Each failure in a row makes the next delay longer; a success ends the row."""
    program = runpy.run_path(str(EXAMPLES / "short_polling/client_hardened.py"))
    send_request, rows = program["send_request"], []
    send_request.__globals__["backoff_delay"] = lambda failures, _: rows.append(failures) or 0

    class Client:
        def __init__(self, *statuses):
            self.statuses = iter(statuses)

        async def request(self, method, url):
            return httpx2.Response(next(self.statuses))

    for _ in range(2):
        sending = send_request(Client(503, 500, 502, 200), "GET", "http://x")
        assert run_in_thread(sending).status_code == 200
    assert rows == [0, 1, 2] * 2


def test_retry_after_is_spread(backoff_delay):
    """Clients that got the same Retry-After of 10 s return spread over the second after it, and
    none before it."""
    delays = [backoff_delay(0, 10) for _ in range(1000)]
    assert all(10 <= delay <= 11 for delay in delays)
    assert {int((delay - 10) * 10) for delay in delays} >= set(range(10))


@pytest.fixture
def retry_after():
    """Return a function of a Retry-After's value: what the hardened client makes of it."""
    parse = runpy.run_path(str(EXAMPLES / "short_polling/client_hardened.py"))["retry_after"]
    return lambda value: parse(httpx2.Response(503, headers={"Retry-After": value.encode()}))


def test_retry_after_may_be_a_date(retry_after, backoff_delay):
    """Retry-After may be a date in any of the three forms of HTTP; one in the past means half a
    second, as 0 does."""
    soon = datetime.now(UTC) + timedelta(seconds=100)
    for form in "%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y":
        assert 90 <= retry_after(soon.strftime(form)) <= 100
    for past in "Fri, 31 Dec 1999 23:59:59 GMT", "Fri Dec 31 23:59:59 1999", "0":
        assert 0.5 <= backoff_delay(0, retry_after(past)) <= 0.55


def test_an_invalid_retry_after_is_ignored(retry_after):
    """A Retry-After that is neither a number nor a date is ignored: the client backs off."""
    for value in "", "soon", "-5", "1.5", "nan", "inf", "\u0663", "Fri, 31 Dec 1999 25:00:00 GMT":
        assert retry_after(value) is None


def test_a_long_retry_after_is_bounded(retry_after, backoff_delay):
    """The client waits ten minutes at most, a tenth aside, whatever Retry-After specifies."""
    for value in "3600", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT":
        assert 600 <= backoff_delay(0, retry_after(value)) <= 660


def test_gives_up_at_the_deadline(server, tap, run, record):
    """At its deadline the client gives up, reports it, and stops polling."""
    wire = tap(server)
    result = run("short_polling/client_hardened.py", URL=wire.url, SECONDS=60, DEADLINE=2)
    assert result.returncode == 1
    assert result.stderr == "the job was not done within 2 s\n"
    assert [label(m) for m in messages(wire.events)][-1] == "200 pending"
    record("short_polling/deadline.txt", result.stdout + result.stderr)


def test_a_restarted_server_does_not_know_the_token(start, tap, run):
    """After a restart the server does not know the token: the client gets 404 and stops."""
    first = start("short_polling/server.py")
    wire = tap(first)
    with ThreadPoolExecutor() as beside:
        client = beside.submit(
            run, "short_polling/client_hardened.py", URL=wire.url, SECONDS=60, DEADLINE=20
        )
        wire.wait_until(lambda events: len(messages(events)) >= 4)  # it has polled once
        first.stop()
        start("short_polling/server.py", PORT=first.port)
        result = client.result()
    assert result.returncode == 1
    assert "responded with 404" in result.stderr


def test_the_body_of_an_error_has_a_status_too(server):
    """The body of Sanic's error has a field status as well: the number 404, and not the status of a
    job."""
    response = httpx2.get(f"{server.url}/jobs/unknown")
    assert response.status_code == 404
    assert response.json()["status"] == 404


def test_too_many_jobs_are_rejected_with_retry_after(start):
    """A server with too many jobs responds with 503 and Retry-After, and accepts jobs again once
    results have expired."""
    server = start("short_polling/server_hardened.py", MAX_JOBS=1, RESULT_TTL=1)
    job = submit_job(server.url, 0)
    rejected = httpx2.post(f"{server.url}/jobs", json={"seconds": 0})
    assert rejected.status_code == 503
    assert rejected.headers["Retry-After"] == "5"
    assert rejected.json()["message"] == "too many jobs"
    while httpx2.get(job).status_code == 200:
        time.sleep(0.05)
    submit_job(server.url, 0)


def test_a_result_expires(start):
    """A result is forgotten after a while, whether it was fetched or not."""
    server = start("short_polling/server_hardened.py", RESULT_TTL=1)
    job = submit_job(server.url, 0)
    assert poll_until_done(job).json()["result"] == 42
    while (response := httpx2.get(job)).status_code == 200:
        time.sleep(0.05)
    assert response.status_code == 404


def test_a_client_that_leaves_holds_nothing(server):
    """A client that disconnects between two polls leaves no open connection in the server, and its
    job continues."""
    with httpx2.Client() as client:
        job = client.post(f"{server.url}/jobs", json={"seconds": 2}).headers["Location"]
        assert client.get(f"{server.url}{job}").status_code == 200
        assert established("local", server.port) >= 1
    wait_until(lambda: established("local", server.port, states=(OPEN, LEFT)) == 0)
    assert poll_until_done(f"{server.url}{job}").json()["status"] == "done"


# curl and the browser


def test_curl_polls(runs, record):
    """A shell loop around curl polls until the job is done."""
    result = runs["client.sh"].result()
    statuses = [json.loads(line)["status"] for line in result.stdout.splitlines()]
    assert statuses == ["pending"] * 4 + ["done"]
    record("short_polling/curl.txt", result.stdout)


@both_browsers
def test_the_browser_polls(open_client_page, server):
    """The page, opened as a file, polls with fetch until the job is done."""
    page = open_client_page(server.url)
    enter(page.locator("#seconds"), "1.5")
    enter(page.locator("#interval"), "1")
    page.click("#start")
    assert page.is_disabled("#start")
    page.wait_for_selector("text=done: 42")
    assert page.is_enabled("#start")
    assert page.is_disabled("#stop")
    page.click("#start")  # the lines of the first job go
    page.wait_for_function("document.querySelectorAll('#responses li').length === 0")
    page.wait_for_selector("text=done: 42")
    shown = page.locator("#responses li").all_inner_texts()
    assert shown == ["pending", "done: 42"]


def test_the_browser_stops(open_client_page, server):
    """Stop ends the polling at once, also in the middle of an interval."""
    page = open_client_page(server.url)
    enter(page.locator("#seconds"), "60")
    enter(page.locator("#interval"), "60")
    page.click("#start")
    page.click("#stop")
    page.wait_for_selector("text=stopped: you pressed Stop")
    assert page.is_enabled("#start")


def test_the_browser_rejects_a_missing_interval(open_client_page, tap, server):
    """Without an interval, or with one of zero, the page sends no request."""
    wire = tap(server)
    page = open_client_page(wire.url)
    for interval in "", "0":
        enter(page.locator("#interval"), interval)
        page.click("#start")
        assert page.locator("#interval:invalid").count() == 1
    assert wire.connections == 0


def test_the_browser_shows_errors(canned, open_client_page):
    """The page shows the server's error, and why a job failed."""
    allowed = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Location"}
    submitted = (202, allowed | {"Location": "/jobs/x"}, {"status": "pending"})
    for responses, words in [
        ([(400, allowed, "no such job here")], "stopped: no such job here"),
        ([submitted, (404, allowed, "no job has this token")], "stopped: no job has this token"),
        ([submitted, (200, allowed, {"status": "failed", "error": "no paper"})], "no paper"),
    ]:
        page = open_client_page(canned(*responses).url)
        enter(page.locator("#interval"), "0.1")
        page.click("#start")
        page.wait_for_selector(f"text={words}")


def test_the_browser_reports_an_unreachable_server(open_client_page, port):
    """When no server responds the page reports it."""
    page = open_client_page(f"http://127.0.0.1:{port()}")
    page.click("#start")
    page.wait_for_selector("text=stopped:")


# The interval


@pytest.fixture(scope="module")
def sweep(runs):
    """Return what sweep.py printed, as rows of numbers."""
    rows = csv.DictReader(runs["sweep.py"].result().stdout.splitlines())
    return [{name: float(value) for name, value in row.items()} for row in rows]


def test_requests_are_length_over_interval(sweep):
    """A client sends length/interval + ½ polls on average."""
    for row in sweep:
        assert row["requests"] == row["length/interval"] + 0.5


def test_late_by_half_an_interval_on_average(sweep):
    """The client receives the result half an interval late on average, and three quarters of an
    interval in the worse of two cases."""
    for row in sweep:
        assert row["mean late"] == 0.5
        assert row["worst late"] == 0.75  # the worse of two jobs


def test_the_interval_trades_requests_for_delay(sweep, runs, record):
    """Half the interval means half the delay, and length/interval more requests."""
    points = {row["length/interval"]: row for row in sweep}
    for n in 1, 2:
        whole, half = points[n], points[2 * n]
        assert half["mean late"] / (2 * n) == whole["mean late"] / n / 2
        assert half["requests"] - whole["requests"] == n
    record("short_polling/sweep.txt", runs["sweep.py"].result().stdout)
    record(
        "short_polling/sweep.md",
        table(
            [
                {
                    "interval, in job lengths": f"1/{n:g}" if n > 1 else "1",
                    "requests": f"{row['requests']:g}",
                    "*T*/*i* + ½": f"{n + 0.5:g}",
                    "mean delay, in intervals": f"{row['mean late']:g}",
                    "worst delay": f"{row['worst late']:g}",
                }
                for n, row in points.items()
            ]
        ),
    )
    record(
        "short_polling/requests.svg",
        chart(
            [(1 / n, row["requests"]) for n, row in points.items()],
            lambda x: 1 / x + 0.5,
            "interval, in job lengths",
            "requests for one job",
            "Requests against interval",
            "Four measured points on the curve 1/interval + ½: from 4.5 requests at a quarter of "
            "the job's length down to 1.5 at the whole of it.",
            y_max=6,
        ),
    )
    record(
        "short_polling/delay.svg",
        chart(
            [(1 / n, row["mean late"] / n) for n, row in points.items()],
            lambda x: x / 2,
            "interval, in job lengths",
            "mean delay, in job lengths",
            "Mean delay against interval",
            "Four measured points on the straight line interval/2: the longer the interval, the "
            "later the client receives the result.",
            y_max=0.6,
        ),
    )
