"""Long polling: ask once, and be answered when there is something to say."""

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from subprocess import CompletedProcess
from typing import NamedTuple

import httpx2
import pytest

from .support.messages import counts, exchanges, label, messages, table, trace, transcript
from .support.messages import late as in_halves
from .support.sequence import sequence_diagram
from .support.wiretap import Tap

HELD = {"Prefer": "wait=20"}

# Nothing here is encrypted, so no certificates need be loaded for each request.
get, post = partial(httpx2.get, verify=False), partial(httpx2.post, verify=False)


@pytest.fixture(scope="module")
def server(start_shared):
    """Return the plain server, running."""
    return start_shared("long_polling/server.py")


class Run(NamedTuple):
    """A client that runs beside the proofs: the wire it talks over, and how it ended."""

    wire: Tap
    result: Callable[[], CompletedProcess]  # waits for the end


@pytest.fixture(scope="module", autouse=True)
def runs(server, start_shared, tap_shared, run_shared):
    """Return a Run of each client; they mostly wait, so they wait together.

    A job of 9 s, which is drawn as one of 4.5 s: a busy machine is late each time. The same job by
    short polling is beside it.
    """
    short = start_shared("short_polling/server.py")
    with ThreadPoolExecutor() as beside:

        def begin(name, server, **variables):
            wire = tap_shared(server)
            return Run(wire, beside.submit(run_shared, name, URL=wire.url, **variables).result)

        yield {
            "short": begin("short_polling/client.py", short, INTERVAL=2, SECONDS=9),
            "as it is": begin("long_polling/client.py", server),
            "long": begin("long_polling/client.py", server, SECONDS=9),
            "held for 4 s": begin("long_polling/client.py", server, SECONDS=9, WAIT=4),
            "curl": begin("long_polling/client.sh", server, SECONDS_OF_WORK=9),
            "hangs up": begin("long_polling/wrong_client_timeout.py", server),
        }


def submit(url, seconds=60, **job):
    answer = post(f"{url}/jobs", json={"seconds": seconds} | job)
    assert answer.status_code == 202, answer.text
    return url + answer.headers["Location"]


def ask(url, prefer="wait=20"):
    return get(url, headers={"Prefer": prefer} if prefer else {}, timeout=30)


@pytest.fixture
def beside():
    """Return an executor for what waits while the proof goes on."""
    with ThreadPoolExecutor(64) as executor:
        yield executor


def asked(wire, number=1):
    """Wait until so many questions have passed a tap."""
    wire.wait_until(lambda events: sum(b"GET /" in event.data for event in events) >= number)


def arrived(wire, number=1):
    """Wait until so many questions have passed a tap and were read by the server behind it."""
    asked(wire, number)
    httpx2.options(wire.url, verify=False)  # passes the same tap, after them, and is answered


# The server


def test_without_prefer_it_is_short_polling(server):
    """Without Prefer every question is answered at once, and told when to ask again."""
    job = submit(server.url)
    answers = [ask(job, prefer=None) for _ in range(20)]
    assert {answer.json()["status"] for answer in answers} == {"pending"}
    assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
    assert not any("Preference-Applied" in answer.headers for answer in answers)


def test_the_wait_is_capped(start):
    """The server holds no longer than it wants to, 25 seconds unless told otherwise, and says
    for how long it was ready to."""
    usual = start("long_polling/server.py")
    assert ask(submit(usual.url, 0), "wait=60").headers["Preference-Applied"] == "wait=25"
    server = start("long_polling/server.py", MAX_WAIT=1)
    answer = ask(submit(server.url), "wait=60")
    assert answer.json()["status"] == "pending"
    assert answer.headers["Preference-Applied"] == "wait=1"
    done = submit(server.url, 0)
    assert ask(done, f"wait={'9' * 5000}").headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize(
    "prefer",
    ["wait", "wait=", "wait=x", "wait=-1", "wait=0.5", "wait=0", "waiting=9", "a=wait=9", "wait=٣"],
)
def test_what_is_not_understood_is_ignored(server, prefer):
    """A preference that makes no sense is ignored: the answer is pending, at once."""
    job = submit(server.url)
    answer = get(job, headers={"Prefer": prefer.encode()})
    assert (answer.status_code, answer.json()["status"]) == (200, "pending")
    assert "Preference-Applied" not in answer.headers
    assert answer.headers["Retry-After"] == "1"


def test_prefer_may_say_more(server):
    """The wait may be one preference of several, in one header or in two, in any case, with
    blanks and parameters; of two waits the first counts."""
    job = submit(server.url, 0)
    assert ask(job).json()["status"] == "done"
    for prefer in [
        [("Prefer", "wait=7")],
        [("Prefer", "respond-async, wait=7")],
        [("Prefer", "respond-async"), ("Prefer", "wait=7")],
        [("prefer", "WAIT = 7 ; foo=bar")],
        [("Prefer", "handling=lenient,wait=7,wait=9")],
        [("Prefer", "wait=007")],
    ]:
        assert get(job, headers=prefer).headers["Preference-Applied"] == "wait=7"


def test_a_done_job_is_not_held(server):
    """Nothing is held that can be answered: a job that has ended is told at once, again and
    again."""
    job = submit(server.url, 0)
    assert [ask(job).json()["result"] for _ in range(5)] == [42] * 5


def test_an_unknown_token_is_not_held(server):
    """An unknown token is a 404, at once, whatever is preferred."""
    answer = ask(f"{server.url}/jobs/made-up")
    assert answer.status_code == 404
    assert answer.json()["message"] == "no job has this token"


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_a_job_that_fails_ends_the_wait(start, name):
    """A job that fails ends the wait as well: the answer is a 200 that says so."""
    server = start(f"long_polling/{name}")
    answer = ask(submit(server.url, 0.5, fail=True))
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"] == "the job was told to fail"


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_one_job_answers_all_who_wait(start, beside, name):
    """Fifty clients that wait for one job are all answered when it ends, each after one
    question."""
    server = start(f"long_polling/{name}")
    job = submit(server.url, 1.5)
    answers = list(beside.map(ask, [job] * 50))
    assert {answer.json()["status"] for answer in answers} == {"done"}
    # Woken by the job's end, and not by the end of the 20 seconds.
    assert max(answer.elapsed.total_seconds() for answer in answers) < 10


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_the_wait_leaves_the_job_alone(start, tap, beside, name):
    """A wait that runs out, and a client that leaves, do nothing to the job or to others who
    wait for it."""
    server = start(f"long_polling/{name}")
    wire = tap(server)
    job = submit(server.url, 3)
    stays = beside.submit(ask, job)
    with pytest.raises(httpx2.ReadTimeout):
        get(job.replace(server.url, wire.url), headers=HELD, timeout=httpx2.Timeout(30, read=0.3))
    assert ask(job, "wait=1").json()["status"] == "pending"
    assert stays.result().json() == ask(job).json()
    assert stays.result().json()["result"] == 42


@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_no_cache_may_keep_the_answer(start, name):
    """No cache may keep an answer, and each says that it depends on Prefer."""
    server = start(f"long_polling/{name}")
    for prefer in None, "wait=1":
        answer = ask(submit(server.url, 0.1), prefer)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Vary"] == "Prefer"


def test_an_open_question_occupies_its_connection(server, tap):
    """Over HTTP/1.1 a connection with a held question carries nothing else: what is asked
    behind it is answered after it."""
    wire = tap(server)
    held = submit(wire.url, 1).removeprefix(wire.url)
    quick = submit(wire.url, 60).removeprefix(wire.url)
    with socket.create_connection(("127.0.0.1", wire.port)) as connection:
        for path, prefer in (held, "Prefer: wait=20\r\n"), (quick, ""):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{prefer}\r\n".encode())
        received = b""
        while received.count(b"}") < 2:
            received += connection.recv(65536)
    assert received.index(b"done") < received.index(b"pending")


# The question that is held


def test_holds_until_done(runs, record):
    """A question that is held is answered when the job is done: one question, and no pending."""
    result = runs["long"].result()
    assert result.returncode == 0
    found = messages(runs["long"].wire.events)
    assert [label(answer) for _, answer in exchanges(found)] == ["202 pending", "200 done"]
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
    """Return how long after the job's end the client knew, in intervals of short polling."""
    assert run.result().returncode == 0
    found = messages(run.wire.events)
    return (found[-1].at - found[1].at - 9) / 2


def test_answers_the_moment_the_job_ends(runs):
    """Short polling knows of the end of a job of 4.5 intervals at least three times as late."""
    assert late(runs["short"]) > 3 * late(runs["long"])


def test_one_question_where_short_polling_has_five(runs):
    """For the same job short polling asks five times and long polling once."""
    asked = {}
    for name in "short", "long":
        runs[name].result()
        found = messages(runs[name].wire.events)
        asked[name] = sum(message.method == "GET" for message in found)
    assert asked == {"short": 5, "long": 1}


def test_pending_when_the_wait_is_over(runs, record):
    """When the wait is over before the job, the answer is pending, and the client asks again
    at once: held for 4 s, a job of 9 s takes three questions, and the last is in time."""
    run = runs["held for 4 s"]
    result = run.result()
    found = messages(run.wire.events)
    pairs = exchanges(found)
    assert [label(answer) for _, answer in pairs] == [
        "202 pending",
        "200 pending",
        "200 pending",
        "200 done",
    ]
    for question, answer in pairs[1:3]:
        assert answer.at - question.at >= 3.99
        assert "retry-after" not in answer.headers
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
    """Python and curl both ask once; curl opens a connection for each request; a shorter wait
    costs a question each time that it runs out."""
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
    # curl says its version, which differs from machine to machine.
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
    """curl asks once and is answered when the job is done."""
    result = runs["curl"].result()
    assert result.returncode == 0
    assert '"status":"done"' in result.stdout
    record("long_polling/curl.txt", result.stdout)


def test_curl_asks_again(server, run):
    """curl asks again at once when it was held, until the job is done."""
    result = run("long_polling/client.sh", URL=server.url, SECONDS_OF_WORK=1.9, WAIT=1)
    lines = [json.loads(line.split()[0])["status"] for line in result.stdout.splitlines()]
    assert lines == ["pending", "done"]


def test_a_client_with_a_short_timeout_hangs_up(runs, record):
    """A client that was not told to wait longer hangs up after 5 seconds, before the answer."""
    result = runs["hangs up"].result()
    assert result.returncode == 1
    assert "ReadTimeout" in result.stderr
    question = messages(runs["hangs up"].wire.events)[-1]
    end = next(e for e in runs["hangs up"].wire.events if e.kind == "end" and e.at > question.at)
    assert question.source == end.source == "client"
    # The job ends after 9 seconds. The tap may see the question late, and so the wait shorter.
    assert 4 <= end.at - question.at < 9
    record("long_polling/wrong_client_timeout.txt", result.stdout + result.stderr)


PENDING = (202, {"Location": "/jobs/x", "Retry-After": "0"}, {"status": "pending"})
DONE = (200, {}, {"status": "done", "result": 42})


@pytest.mark.parametrize("name", ["client.py", "client.sh"])
def test_a_server_that_does_not_hold_is_not_flooded(canned, run, name):
    """A server that ignores the preference is asked once a second, and not at once for ever."""
    done = (200, {}, '{"status":"done","result":42}')
    server = canned(PENDING, (200, {}, '{"status":"pending"}'), done)
    assert run(f"long_polling/{name}", URL=server.url).returncode == 0
    assert server.times[2] - server.times[1] >= 1


@pytest.mark.parametrize("name", ["client.py", "client.sh"])
def test_a_client_that_was_held_asks_again_at_once(canned, run, name):
    """A client that was held and is told pending asks again without a pause."""
    held = (200, {"Preference-Applied": "wait=25"}, '{"status":"pending"}')
    server = canned(PENDING, held, held, held, (200, {}, '{"status":"done","result":42}'))
    assert run(f"long_polling/{name}", URL=server.url).returncode == 0
    assert min(later - before for before, later in pairwise(server.times[1:])) < 0.8


def test_the_client_waits_if_told_to(canned, run):
    """A client that was held and is told Retry-After waits that long."""
    later = (200, {"Preference-Applied": "wait=25", "Retry-After": "2"}, {"status": "pending"})
    server = canned(PENDING, later, DONE)
    assert run("long_polling/client.py", URL=server.url).returncode == 0
    assert server.times[2] - server.times[1] >= 2


def test_a_failed_job_fails_the_client(canned, run):
    """A client whose job failed says why in one line and exits with an error."""
    server = canned(PENDING, (200, {}, {"status": "failed", "error": "no paper"}))
    result = run("long_polling/client.py", URL=server.url)
    assert result.returncode == 1
    assert result.stderr == "the job failed: no paper\n"


def test_the_browser_is_held(open_client_page, server, tap):
    """The page, opened as a file, asks with fetch, is held, and asks again when the wait is
    over."""
    wire = tap(server)
    page = open_client_page(wire.url)
    page.fill("#seconds", "1.9")
    page.fill("#wait", "1")
    page.click("#start")
    assert page.is_disabled("#start")
    page.wait_for_selector("text=the result is 42")
    assert page.locator("li").all_text_contents() == ["pending", "done", "the result is 42"]
    assert page.is_enabled("#start")
    asked = [m for m in messages(wire.events) if m.method == "GET"]
    assert [question.headers["prefer"] for question in asked] == ["wait=1", "wait=1"]
    # What a browser sends for cache: "no-store".
    assert {question.headers["cache-control"] for question in asked} == {"no-cache"}


def test_a_browser_asks_before_it_sends_prefer(open_client_page, server, tap):
    """A page from elsewhere may not send Prefer unasked: its browser sends OPTIONS first, and
    the server allows it."""
    wire = tap(server)
    page = open_client_page(wire.url)
    page.fill("#seconds", "0.1")
    page.click("#start")
    page.wait_for_selector("text=the result is 42")
    methods = [m.method for m in messages(wire.events) if m.source == "client"]
    assert methods == ["POST", "OPTIONS", "GET"]


def test_the_browser_stops(open_client_page, server, tap):
    """Stop ends the question at once, while it is held: its connection is closed."""
    wire = tap(server)
    page = open_client_page(wire.url)
    page.fill("#seconds", "60")
    page.click("#start")
    asked(wire)
    page.click("#stop")
    page.wait_for_selector("text=stopped: you pressed Stop")
    wire.wait_until(lambda events: any(event.kind in {"end", "reset"} for event in events))


def test_the_browser_does_not_flood(open_client_page):
    """The page pauses when its question was not held."""
    page, times = open_client_page("http://127.0.0.1:8000"), []
    share = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}

    def answer(route):
        if route.request.method == "POST":
            route.fulfill(status=202, headers=share | {"Location": "/jobs/x"}, body="{}")
        else:
            times.append(time.monotonic())
            status = "pending" if len(times) == 1 else "done"
            route.fulfill(headers=share, body=json.dumps({"status": status, "result": 42}))

    page.route("**/jobs*/**", answer)
    page.route("**/jobs", answer)
    page.click("#start")
    page.wait_for_selector("text=the result is 42")
    assert times[1] - times[0] >= 0.99


def test_the_browser_says_when_nobody_answers(open_client_page, port):
    """When no server answers the page says so."""
    page = open_client_page(f"http://127.0.0.1:{port()}")
    page.click("#start")
    page.wait_for_selector("text=stopped: ")


def test_a_second_tab_waits_behind_the_cache(page, server, tap):
    """Chromium lets one question for an address through its cache at a time: a second one is
    sent when the first is answered; with cache: "no-store" both are sent at once."""
    wire = tap(server)
    page.goto(f"{wire.url}/nothing")  # a page of the same origin
    both_at_once = {}
    for cache, wait in ("default", 1), ("no-store", 2):
        job = submit(server.url, 60).removeprefix(server.url)
        page.evaluate(
            """([url, cache, wait]) => Promise.all([1, 2].map(() =>
                fetch(url, {cache, headers: {Prefer: `wait=${wait}`}})))""",
            [job, cache, wait],
        )
        pairs = [pair for pair in exchanges(messages(wire.events)) if pair[0].target == job]
        (_, first_answer), (second_question, _) = pairs
        both_at_once[cache] = second_question.at < first_answer.at
    assert both_at_once == {"default": False, "no-store": True}


def test_six_held_questions_use_up_a_browser(page, server, tap):
    """With six questions held over HTTP/1.1, a browser sends a seventh request to the same host
    when one of them is answered, and not before."""
    wire = tap(server)
    page.goto(f"{wire.url}/nothing")
    jobs = [submit(server.url).removeprefix(server.url) for _ in range(7)]
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
    first_answer = min(answer.at for _, answer in held)
    assert max(question.at for question, _ in held) < first_answer < seventh.at
