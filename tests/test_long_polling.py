"""Long polling: the server holds a poll until there is a result."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import httpx2
import pytest

from .support.browsing import both_browsers, enter
from .support.diffs import functions
from .support.messages import counts, exchanges, label, messages, table, trace, transcript
from .support.messages import late as in_halves
from .support.sequence import sequence_diagram
from .support.wiretap import Run

HELD = {"Prefer": "wait=20"}

# Nothing here is encrypted, so no certificates need be loaded for each request.
get, post = partial(httpx2.get, verify=False), partial(httpx2.post, verify=False)


@pytest.fixture(scope="module")
def server(start_shared):
    """Return the quick-start server, running."""
    return start_shared("long_polling/server.py")


@pytest.fixture(scope="module")
def hardened(start_shared):
    """Return the hardened server, running."""
    return start_shared("long_polling/server_hardened.py")


BOTH = pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])


@pytest.fixture(scope="module", autouse=True)
def runs(server, start_shared, tap_shared, run_shared):
    """Return a Run of each client; they mostly wait, so they wait together.

    A job of 9 s, which is drawn as one of 4.5 s: a busy machine is late each time. The same job by
    short polling is beside it.
    """
    short = start_shared("short_polling/server.py")
    with ThreadPoolExecutor() as beside:

        def run_beside(name, server, **variables):
            wire = tap_shared(server)
            return Run(wire, beside.submit(run_shared, name, URL=wire.url, **variables).result)

        yield {
            "short": run_beside("short_polling/client.py", short, INTERVAL=2, SECONDS=9),
            "as it is": run_beside("long_polling/client.py", server),
            "long": run_beside("long_polling/client.py", server, SECONDS=9),
            "held for 4 s": run_beside("long_polling/client.py", server, SECONDS=9, WAIT=4),
            "curl": run_beside("long_polling/client.sh", server, SECONDS_OF_WORK=9),
            "gives up": run_beside("long_polling/wrong_client_timeout.py", server, SECONDS=9),
        }


def submit_job(url, seconds=60, **job):
    response = post(f"{url}/jobs", json={"seconds": seconds} | job)
    assert response.status_code == 202, response.text
    return url + response.headers["Location"]


def poll(url, prefer="wait=20"):
    return get(url, headers={"Prefer": prefer} if prefer else {}, timeout=30)


@pytest.fixture
def beside():
    """Return an executor for requests that are held while a test continues."""
    with ThreadPoolExecutor(64) as executor:
        yield executor


def wait_until_sent(wire, number=1):
    """Wait until so many polls have passed a tap."""
    wire.wait_until(lambda events: sum(b"GET /" in event.data for event in events) >= number)


def wait_until_received(wire, number=1):
    """Wait until so many polls have passed a tap and were read by the server behind it."""
    wait_until_sent(wire, number)
    httpx2.options(wire.url, verify=False)  # passes the same tap, after them


# The server


@BOTH
def test_without_prefer_it_is_short_polling(start, name):
    """Without Prefer the server responds to each poll at once; the hardened one suggests when to
    poll next."""
    job = submit_job(start(f"long_polling/{name}").url)
    responses = [poll(job, prefer=None) for _ in range(20)]
    assert {response.json()["status"] for response in responses} == {"pending"}
    assert not any("Preference-Applied" in response.headers for response in responses)
    suggested = {response.headers.get("Retry-After") for response in responses}
    assert suggested == {"1" if "hardened" in name else None}


@BOTH
def test_the_wait_is_capped(start, name):
    """The server holds for at most 25 seconds unless it is configured otherwise, and specifies the
    limit in Preference-Applied."""
    usual = start(f"long_polling/{name}")
    assert poll(submit_job(usual.url, 0), "wait=60").headers["Preference-Applied"] == "wait=25"
    server = start(f"long_polling/{name}", MAX_WAIT=1)
    response = poll(submit_job(server.url), "wait=60")
    assert response.json()["status"] == "pending"
    assert response.headers["Preference-Applied"] == "wait=1"
    done = submit_job(server.url, 0)
    assert poll(done, f"wait={'9' * 5000}").status_code == 200


INVALID = ["wait", "wait=", "wait=x", "wait=-1", "wait=0.5", "waiting=9", "a=wait=9", "wait=٣"]


@BOTH
def test_an_invalid_preference_is_ignored(start, name):
    """A preference that is invalid is ignored: the response is pending, at once."""
    job = submit_job(start(f"long_polling/{name}").url)
    for prefer in *INVALID, *(["wait=0", 'wait="9'] if "hardened" in name else []):
        response = get(job, headers={"Prefer": prefer.encode()})
        assert (response.status_code, response.json()["status"]) == (200, "pending"), prefer
        assert "Preference-Applied" not in response.headers, prefer


def test_prefer_may_be_a_list(hardened):
    """For the hardened server the wait may be one preference of several, in one header or in two,
    in any case, quoted, with blanks and parameters; of two waits the first counts."""
    job = submit_job(hardened.url, 0)
    assert poll(job).json()["status"] == "done"
    for prefer in [
        [("Prefer", "wait=7")],
        [("Prefer", "respond-async, wait=7")],
        [("Prefer", "respond-async"), ("Prefer", "wait=7")],
        [("prefer", "WAIT = 7 ; foo=bar")],
        [("Prefer", 'wait="7"')],
        [("Prefer", "handling=lenient,wait=7,wait=9")],
        [("Prefer", "wait=007")],
    ]:
        assert get(job, headers=prefer).headers["Preference-Applied"] == "wait=7"
    assert poll(job, f"wait={'9' * 5000}").headers["Preference-Applied"] == "wait=25"


def test_a_done_job_is_not_held(server):
    """A poll of a job that has ended is not held; it may be repeated."""
    job = submit_job(server.url, 0)
    assert [poll(job).json()["result"] for _ in range(5)] == [42] * 5


def test_an_unknown_token_is_not_held(server):
    """An unknown token is a 404 at once, also with Prefer."""
    response = poll(f"{server.url}/jobs/made-up")
    assert response.status_code == 404
    assert response.json()["message"] == "unknown token"


def test_a_job_that_fails_ends_the_wait(hardened):
    """A job that fails ends the hold as well: the hardened server responds with 200 and the status
    failed."""
    response = poll(submit_job(hardened.url, 0.5, fail=True))
    assert response.status_code == 200
    assert response.json()["status"] == "failed"
    assert response.json()["error"] == "the job was set to fail"


@BOTH
def test_the_end_of_a_job_ends_all_its_holds(start, beside, name):
    """Fifty clients that wait for one job all receive its result when it ends, each with one
    poll."""
    server = start(f"long_polling/{name}")
    job = submit_job(server.url, 1.5)
    responses = list(beside.map(poll, [job] * 50))
    assert {response.json()["status"] for response in responses} == {"done"}
    # Woken by the job's end, and not by the end of the 20 seconds.
    assert max(response.elapsed.total_seconds() for response in responses) < 10


@BOTH
def test_the_wait_leaves_the_job_alone(start, tap, beside, name):
    """Neither the end of a hold nor a client that disconnects affects the job or the other clients
    that wait for it."""
    server = start(f"long_polling/{name}")
    wire = tap(server)
    job = submit_job(server.url, 3)
    stays = beside.submit(poll, job)
    with pytest.raises(httpx2.ReadTimeout):
        get(job.replace(server.url, wire.url), headers=HELD, timeout=httpx2.Timeout(30, read=0.3))
    assert poll(job, "wait=1").json()["status"] == "pending"
    assert stays.result().json() == poll(job).json()
    assert stays.result().json()["result"] == 42


@BOTH
def test_no_cache_may_store_the_response(start, cached_statuses, canned, name):
    """No cache may store a response, and an nginx that caches does not; that of the hardened server
    names Prefer in Vary."""
    server = start(f"long_polling/{name}")
    assert cached_statuses(submit_job(server.url, 60)) == ["MISS", "MISS"]
    assert cached_statuses(canned((200, {}, "")).url + "/") == ["MISS", "HIT"]
    for prefer in None, "wait=1":
        response = poll(submit_job(server.url, 0.1), prefer)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers.get("Vary") == ("Prefer" if "hardened" in name else None)


def test_the_hardened_server_extends_the_quick_start():
    """The hardened server has the functions of the quick start, in the same order."""
    quick, hardened = (
        functions(f"long_polling/{name}.py") for name in ("server", "server_hardened")
    )
    assert [name for name in hardened if name in quick] == quick


def test_a_held_request_occupies_its_connection(server, tap):
    """Over HTTP/1.1 a connection with a held request carries nothing else: a request that is sent
    behind it gets its response after it."""
    wire = tap(server)
    held = submit_job(wire.url, 1).removeprefix(wire.url)
    quick = submit_job(wire.url, 60).removeprefix(wire.url)
    with socket.create_connection(("127.0.0.1", wire.port)) as connection:
        for path, prefer in (held, "Prefer: wait=20\r\n"), (quick, ""):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{prefer}\r\n".encode())
        received = b""
        while received.count(b"}") < 2:
            received += connection.recv(65536)
    assert received.index(b"done") < received.index(b"pending")


# The held request


def test_holds_until_done(runs, record):
    """The server holds the poll until the job is done: one poll, and no pending."""
    result = runs["long"].result()
    assert result.returncode == 0
    found = messages(runs["long"].wire.events)
    assert [label(response) for _, response in exchanges(found)] == ["202 pending", "200 done"]
    assert found[2].headers["prefer"] == "wait=25"
    assert found[3].headers["preference-applied"] == "wait=25"
    record("long_polling/client.txt", result.stdout)
    assert runs["as it is"].result().returncode == 0
    shown = messages(runs["as it is"].wire.events)
    record("long_polling/wire.html", transcript(shown, "Long polling on the wire"))
    drawn = trace(found, 2, [0, 4.5], step=0.5)
    record("long_polling/timeline.json", drawn)
    record(
        "long_polling/timeline.svg",
        sequence_diagram(
            drawn,
            "Long polling, drawn from a run",
            "The client submits a job at 0 and receives 202 pending. It sends its poll at once; "
            "the server holds this request until the job ends at 4.5 seconds, and responds 200 "
            "done at that moment. Nothing is late.",
        ),
    )


def late(run):
    """Return how long after the job's end the client received the result, in intervals of short
    polling."""
    assert run.result().returncode == 0
    found = messages(run.wire.events)
    return (found[-1].at - found[1].at - 9) / 2


def test_responds_when_the_job_ends(runs):
    """With short polling the result of a job of 4.5 intervals is received at least three times as
    late as with long polling."""
    assert late(runs["short"]) > 3 * late(runs["long"])


def test_one_poll_where_short_polling_needs_five(runs):
    """For the same job short polling takes five polls and long polling one."""
    polls = {}
    for name in "short", "long":
        runs[name].result()
        found = messages(runs[name].wire.events)
        polls[name] = sum(message.method == "GET" for message in found)
    assert polls == {"short": 5, "long": 1}


def test_pending_when_the_wait_is_over(runs, record):
    """When the hold ends before the job, the response is pending, and the client polls again at
    once: held for 4 s, a job of 9 s takes three polls, and the result is in time."""
    run = runs["held for 4 s"]
    result = run.result()
    found = messages(run.wire.events)
    pairs = exchanges(found)
    assert [label(response) for _, response in pairs] == [
        "202 pending",
        "200 pending",
        "200 pending",
        "200 done",
    ]
    for request, response in pairs[1:3]:
        assert response.at - request.at >= 3.99
        assert "retry-after" not in response.headers
    assert late(runs["short"]) > 3 * late(run)
    record("long_polling/held_for_2.txt", result.stdout)
    drawn = trace(found, 2, [0, 4.5], step=0.5)
    record("long_polling/held_for_2.json", drawn)
    record(
        "long_polling/held_for_2.svg",
        sequence_diagram(
            drawn,
            "A hold that is shorter than the job",
            "The request is held from 0 to 2 seconds; the response is 200 pending. The next one "
            "is held until 4 seconds, with the same response. The third is held until the job "
            "ends at 4.5 seconds; its response is 200 done.",
        ),
    )


# Costs


def test_costs(runs, record):
    """Python and curl both poll once; curl opens a connection for each request; a shorter wait
    costs one more poll each time that it ends."""
    rows = []
    clients = {
        "short polling, `client.py`": "short",
        "`client.py`": "long",
        "`client.py`, held for 2 intervals at most": "held for 4 s",
        "`client.sh`": "curl",
    }
    for name, key in clients.items():
        assert runs[key].result().returncode == 0
        late_by = in_halves(messages(runs[key].wire.events), 9, 2)
        rows.append({"client": name} | counts(runs[key].wire) | {"late, in intervals": late_by})
    # curl sends its version, which differs from machine to machine.
    rows[-1] |= {"bytes up": "–", "bytes down": "–"}
    assert [(row["connections"], row["requests"]) for row in rows] == [
        (1, 6),
        (1, 2),
        (1, 4),
        (2, 2),
    ]
    record("long_polling/costs.md", table(rows))


# Clients


def test_curl_is_held(runs, record):
    """curl polls once and receives the result when the job is done."""
    result = runs["curl"].result()
    assert result.returncode == 0
    assert '"status":"done"' in result.stdout
    record("long_polling/curl.txt", result.stdout)


def test_curl_polls_again(server, run):
    """curl polls again at once when it was held, until the job is done."""
    result = run("long_polling/client.sh", URL=server.url, SECONDS_OF_WORK=1.9, WAIT=1)
    lines = [json.loads(line.split()[0])["status"] for line in result.stdout.splitlines()]
    assert lines == ["pending", "done"]


def test_a_client_with_a_short_timeout_gives_up(runs, record):
    """A client with the default timeout of httpx2 gives up after 5 seconds, before the response."""
    result = runs["gives up"].result()
    assert result.returncode == 1
    assert "timed out" in result.stderr
    request = messages(runs["gives up"].wire.events)[-1]
    end = next(e for e in runs["gives up"].wire.events if e.kind == "end" and e.at > request.at)
    assert request.source == end.source == "client"
    # The job ends after 9 seconds. The tap may see the request late, and so the wait shorter.
    assert 4 <= end.at - request.at < 9
    record("long_polling/wrong_client_timeout.txt", result.stdout + result.stderr)


PENDING = (202, {"Location": "/jobs/x", "Retry-After": "0"}, {"status": "pending"})
DONE = (200, {}, '{"status":"done","result":42}')


@pytest.mark.parametrize("name", ["client.py", "client.sh"])
def test_a_server_that_does_not_hold_is_not_flooded(canned, run, name):
    """A client sends one poll a second to a server that ignores Prefer."""
    server = canned(PENDING, (200, {}, '{"status":"pending"}'), DONE)
    assert run(f"long_polling/{name}", URL=server.url).returncode == 0
    assert server.times[2] - server.times[1] >= 1


@pytest.mark.parametrize("name", ["client.py", "client.sh"])
def test_after_a_hold_the_client_polls_again_at_once(canned, run, name):
    """After a hold that ended with pending, the client polls again without a delay."""
    held = (200, {"Preference-Applied": "wait=25"}, '{"status":"pending"}')
    server = canned(PENDING, held, held, held, DONE)
    assert run(f"long_polling/{name}", URL=server.url).returncode == 0
    assert min(later - before for before, later in pairwise(server.times[1:])) < 0.8


def test_curl_reports_a_failed_job(canned, run):
    """curl prints the response with the error of a job that failed, and exits with an error."""
    server = canned(PENDING, (200, {}, {"status": "failed", "error": "no paper"}))
    result = run("long_polling/client.sh", URL=server.url)
    assert result.returncode == 1
    assert "no paper" in result.stdout


# The page


@pytest.fixture
def open_canned(open_client_page, canned):
    """Return a function that opens the page with a server of canned responses to its requests:
    open_canned(response, …) -> (page, server). Preflights are not counted."""

    def open_canned(*responses):
        share = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
        page, times = open_client_page("http://127.0.0.1:8000"), []

        def respond(route):
            times.append(time.monotonic())
            status, headers, body = responses[min(len(times), len(responses)) - 1]
            body = body if isinstance(body, str) else json.dumps(body)
            route.fulfill(status=status, headers=share | headers, body=body)

        page.route("**/jobs*/**", respond)
        page.route("**/jobs", respond)
        return page, times

    return open_canned


@both_browsers
def test_the_browser_is_held(open_client_page, hardened, tap):
    """The page, opened as a file, polls with fetch, is held, and polls again when the hold has
    ended."""
    wire = tap(hardened)
    page = open_client_page(wire.url)
    enter(page.locator("#seconds"), "1.9")
    enter(page.locator("#wait"), "1")
    page.click("#start")
    assert page.is_disabled("#start")
    page.wait_for_selector("text=done: 42")
    assert page.locator("li").all_text_contents() == ["pending", "done: 42"]
    assert page.is_enabled("#start")
    polls = [m for m in messages(wire.events) if m.method == "GET"]
    assert [request.headers["prefer"] for request in polls] == ["wait=1", "wait=1"]
    # What a browser sends for cache: "no-store".
    assert {request.headers["cache-control"] for request in polls} == {"no-cache"}


def test_prefer_needs_a_preflight(open_client_page, hardened, tap):
    """Before a page of another origin may send Prefer, its browser sends OPTIONS; the hardened
    server allows it."""
    wire = tap(hardened)
    page = open_client_page(wire.url)
    enter(page.locator("#seconds"), "0.1")
    page.click("#start")
    page.wait_for_selector("text=done: 42")
    methods = [m.method for m in messages(wire.events) if m.source == "client"]
    assert methods == ["POST", "OPTIONS", "GET"]


def test_the_browser_stops(open_client_page, hardened, tap):
    """Stop closes the connection of a held request at once."""
    wire = tap(hardened)
    page = open_client_page(wire.url)
    enter(page.locator("#seconds"), "60")
    page.click("#start")
    wait_until_sent(wire)
    page.click("#stop")
    page.wait_for_selector("text=stopped: you pressed Stop")
    wire.wait_until(lambda events: any(event.kind in {"end", "reset"} for event in events))


PENDING_JOB = {"status": "pending"}
HELD_HEADERS = {"Preference-Applied": "wait=25"}


@pytest.mark.parametrize("retry_after", ["", "soon", "-5"])
def test_the_browser_does_not_flood(open_canned, retry_after):
    """The page sends one poll a second to a server that ignores Prefer, also when its Retry-After
    is invalid."""
    page, times = open_canned(PENDING, (200, {"Retry-After": retry_after}, PENDING_JOB), DONE)
    page.click("#start")
    page.wait_for_selector("text=done: 42")
    assert times[2] - times[1] >= 0.99


def test_the_page_obeys_retry_after(open_canned):
    """The page waits before the next poll as long as Retry-After specifies, also after a hold."""
    later = (200, HELD_HEADERS | {"Retry-After": "2"}, PENDING_JOB)
    page, times = open_canned(PENDING, later, DONE)
    page.click("#start")
    page.wait_for_selector("text=done: 42")
    assert times[2] - times[1] >= 1.99


def test_a_client_reports_a_failed_job(open_canned):
    """The page shows why a job failed, and the server's error."""
    for response, words in [
        ((200, HELD_HEADERS, {"status": "failed", "error": "no paper"}), "no paper"),
        ((404, {}, "unknown token"), "unknown token"),
        ((200, {}, {"status": "fine"}), "not a job server"),
    ]:
        page, _ = open_canned(PENDING, response)
        page.click("#start")
        page.wait_for_selector(f"text=stopped: {words}")


def test_the_browser_reports_an_unreachable_server(open_client_page, port):
    """When no server responds the page reports it."""
    page = open_client_page(f"http://127.0.0.1:{port()}")
    page.click("#start")
    page.wait_for_selector("text=stopped: ")


class Tabs:
    """Two tabs of a browser that poll one job: the second when the server has the first poll."""

    def __init__(self, browser, server, tap, cache, wait):
        self.wire = tap(server)
        self.job = submit_job(server.url, 60).removeprefix(server.url)
        self.context = browser.new_context()
        for number in 1, 2:
            tab = self.context.new_page()
            tab.goto(f"{self.wire.url}/nothing")  # a page of the same origin
            tab.evaluate(
                """([url, cache, wait]) => {
                    fetch(url, {cache, headers: {Prefer: `wait=${wait}`}});
                }""",
                [self.job, cache, wait],
            )
            if number == 1:
                self.wait_until_polled(1)

    def wait_until_polled(self, number):
        line = f"GET {self.job} ".encode()
        self.wire.wait_until(lambda events: sum(line in e.data for e in events) == number)

    def exchanges(self):
        """Return each poll with its response, once there are two; a missing response is None."""
        self.wait_until_polled(2)
        found = exchanges(messages(self.wire.events))
        return [pair for pair in found if pair[0].target == self.job]


@pytest.fixture(scope="module")
def locked(browser, start_shared, tap_shared):
    """Return two tabs whose polls may be held for a minute, longer than the lock of the cache."""
    server = start_shared("long_polling/server.py", MAX_WAIT=60)
    tabs = Tabs(browser, server, tap_shared, "default", 60)
    yield tabs
    tabs.context.close()


def test_a_second_tab_waits_for_the_cache(browser, server, tap, locked):
    """Where two tabs poll the same URL, Chromium's cache sends the second poll only after the
    response to the first; with cache: "no-store" both are sent at once."""
    # `locked` is here so that its lock ends while the other tests run.
    both_at_once = {}
    for cache, wait in ("default", 1), ("no-store", 20):
        tabs = Tabs(browser, server, tap, cache, wait)
        (_, first_response), (second_poll, _) = tabs.exchanges()
        both_at_once[cache] = first_response is None or second_poll.at < first_response.at
        tabs.context.close()
    assert both_at_once == {"default": False, "no-store": True}


def test_six_held_requests_use_up_a_browser(page, server, tap):
    """With six requests held over HTTP/1.1, a browser sends a seventh request to the same host
    when one of them gets its response, and not before."""
    wire = tap(server)
    page.goto(f"{wire.url}/nothing")
    jobs = [submit_job(server.url).removeprefix(server.url) for _ in range(7)]
    page.evaluate(
        """([last, ...jobs]) => {
            const held = {cache: "no-store", headers: {Prefer: "wait=2"}};
            return Promise.all([...jobs.map((job) => fetch(job, held)), fetch(last)]);
        }""",
        jobs,
    )
    pairs = [pair for pair in exchanges(messages(wire.events)) if pair[0].target in jobs]
    *held, (seventh, _) = sorted(pairs, key=lambda pair: pair[0].at)
    assert seventh.target == jobs[0]
    first_response = min(response.at for _, response in held)
    assert max(request.at for request, _ in held) < first_response < seventh.at


def test_the_lock_of_the_cache_ends_after_twenty_seconds(locked):
    """Chromium's cache keeps the poll of a second tab for 20 seconds, and then sends it although
    the first has no response yet."""
    (first_poll, first_response), (second_poll, _) = locked.exchanges()
    assert first_response is None or second_poll.at < first_response.at
    assert second_poll.at - first_poll.at > 19
