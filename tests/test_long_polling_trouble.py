"""Long polling in trouble: thousands held, clients that leave, servers that stop; a feed; and
programs that are wrong, proven to fail."""

import asyncio
import difflib
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from .support.messages import exchanges, label, messages, table, transcript
from .support.processes import EXAMPLES, copy_isolated, environment, run_to_end, wait_until
from .test_long_polling import HELD, arrived, ask, asked, get, post, submit

CROWD = 2000


@pytest.fixture
def beside():
    """Return an executor for what waits while the proof goes on."""
    with ThreadPoolExecutor(64) as executor:
        yield executor


def held(server):
    return get(f"{server.url}/held").json()


def at_rest(server):
    """Return what a server holds, without the task of a connection that has just been answered."""
    return min((held(server) for _ in range(5)), key=lambda said: said["tasks"])


def wait_until_held(server, number):
    wait_until(lambda: held(server)["questions"] == number)


# Thousands


class Crowd:
    """So many connections with one question each, held in a thread of their own.

    `answers`: what came back, as bytes, once `result()` has waited for it.
    """

    def __init__(self, port, path, number, wait_until=b"}"):
        self.port, self.number, self.until = port, number, wait_until
        self.request = f"GET {path} HTTP/1.1\r\nHost: x\r\nPrefer: wait=60\r\n\r\n".encode()
        self.asked = self.answered = 0
        self.all_asked = threading.Event()
        self.answers = []
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()))
        self.thread.start()

    async def run(self):
        at_once = asyncio.Semaphore(50)  # handshakes, not questions
        self.answers = await asyncio.gather(*(self.ask(at_once) for _ in range(self.number)))

    async def ask(self, at_once):
        async with at_once:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(self.request)
        self.asked += 1
        if self.asked == self.number:
            self.all_asked.set()
        try:
            answer = await reader.readuntil(self.until)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            answer = repr(error).encode()
        self.answered += 1
        writer.close()
        return answer

    def result(self):
        self.thread.join()
        return self.answers


@pytest.fixture(scope="module")
def many_files():
    """Allow this process, and the servers it starts, enough open connections."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 2 * CROWD + 500
    if most != resource.RLIM_INFINITY and most < enough:
        pytest.fail(f"{most} open files are allowed, {enough} needed: ulimit -Hn {enough}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, enough), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@contextmanager
def crowd(server, path, number):
    """Yield a Crowd that is held; see it to its end, whatever happens."""
    held_back = Crowd(server.port, path, number)
    try:
        wait_until_held(server, number)
        yield held_back
    finally:
        server.stop(errors_expected=True)
        held_back.result()


def test_two_thousand_are_held_at_once(start, many_files, record):
    """One worker in one thread holds 2,000 questions at once, each at the cost of one task and
    some ten KiB, and answers others meanwhile."""
    server = start("long_polling/server_hardened.py", MAX_WAIT=60)
    job = submit(server.url)
    before, tasks = server.status("VmRSS"), held(server)["tasks"]
    with crowd(server, job.removeprefix(server.url), CROWD) as everyone:
        now = held(server)
        kib = (server.status("VmRSS") - before) / CROWD
        # Others hand in jobs and are told of their ends; nobody of the crowd was answered.
        for _ in range(10):
            assert ask(submit(server.url, 0)).json()["status"] == "done"
        assert everyone.answered == 0
        assert server.status("Threads") == 1
    assert now["questions"] == CROWD
    assert now["jobs waited for"] == 1
    rows = [
        {"held by one server": "questions", "measured": CROWD},
        {"held by one server": "processes", "measured": 1},
        {"held by one server": "threads", "measured": 1},
        {
            "held by one server": "tasks for each",
            "measured": f"{(now['tasks'] - tasks) / CROWD:.2g}",
        },
        {
            "held by one server": "memory for each, rounded to 10 KiB",
            "measured": f"{10 * round(kib / 10)} KiB",
        },
    ]
    record("long_polling/crowd.md", table(rows))


def test_nobody_is_dropped_when_the_server_stops(start, many_files, record):
    """When the server stops, all 2,000 who are held get an answer: pending, when to come back,
    and that the connection closes; no connection is reset."""
    server = start("long_polling/server_hardened.py", MAX_WAIT=60)
    job = submit(server.url)
    with crowd(server, job.removeprefix(server.url), CROWD) as everyone:
        assert server.stop() == 0
    answers = [answer.decode() for answer in everyone.result()]
    back = [int(after) for answer in answers for after in re.findall(r"Retry-After: (\d)", answer)]
    assert len(back) == CROWD
    assert set(back) == {1, 2, 3, 4, 5}  # not all at once
    rows = [
        {"of those held": "in all, when it was told to stop", "clients": CROWD},
        {
            "of those held": "answered `200`, `pending`",
            "clients": sum('"pending"' in a for a in answers),
        },
        {"of those held": "told when to come back", "clients": len(back)},
        {
            "of those held": "told that the connection closes",
            "clients": sum("connection: close" in a for a in answers),
        },
        {
            "of those held": "reset, or closed without an answer",
            "clients": sum("Error" in a for a in answers),
        },
    ]
    assert [row["clients"] for row in rows] == [CROWD] * 4 + [0]
    record("long_polling/drained.md", table(rows))


def test_a_pool_of_threads_is_full_with_twenty(start, many_files, record):
    """A server that holds each question with a thread of a pool of twenty answers nobody else
    while twenty are held; on an event loop two hundred are held, and others are answered."""
    pool = start("long_polling/wrong_threads.py", MAX_WAIT=3)
    loop = start("long_polling/server_hardened.py")
    took, answered = {}, {}
    for server, path, number in [
        (pool, "/held", 20),
        (loop, submit(loop.url).removeprefix(loop.url), 200),
    ]:
        everyone = Crowd(server.port, path, number, wait_until=b"\r\n\r\n")
        everyone.all_asked.wait()
        if server is loop:
            wait_until_held(server, number)
        took[server] = get(f"{server.url}/others", timeout=30).elapsed.total_seconds()
        answered[server] = everyone.answered
        used = server.status("Threads")
        server.stop()
        everyone.result()
        if server is pool:
            assert used == 21
    assert took[pool] > 1  # of the 3 seconds for which the twenty are held
    assert answered[loop] == 0
    rows = [
        ("a pool of twenty threads", 20, "after them"),
        ("an event loop", 200, "while all are held"),
    ]
    names = "server", "questions held", "another question is answered"
    shown = [dict(zip(names, row, strict=True)) for row in rows]
    record("long_polling/wrong_threads.md", table(shown))


# The server that lets go


@pytest.fixture(scope="module")
def hardened(start_shared):
    """Return the hardened server, running."""
    return start_shared("long_polling/server_hardened.py")


def test_a_client_that_leaves_is_forgotten(hardened):
    """When a client leaves, its question is no longer held: no entry and no task is left."""
    before = at_rest(hardened)
    path = submit(hardened.url).removeprefix(hardened.url)
    jobs = at_rest(hardened)
    assert jobs["tasks"] == before["tasks"] + 1
    with socket.create_connection(("127.0.0.1", hardened.port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nPrefer: wait=20\r\n\r\n".encode())
        wait_until_held(hardened, before["questions"] + 1)
        assert held(hardened)["tasks"] > jobs["tasks"]
    wait_until(lambda: held(hardened) == jobs)


def test_what_is_held_can_be_counted(hardened, beside):
    """The server says how many questions it holds, and forgets each that was answered."""
    before = at_rest(hardened)
    job = submit(hardened.url, 3)
    answers = [beside.submit(ask, job) for _ in range(3)]
    wait_until_held(hardened, before["questions"] + 3)
    assert held(hardened)["jobs waited for"] == before["jobs waited for"] + 1
    assert {answer.result().json()["status"] for answer in answers} == {"done"}
    assert max(answer.result().elapsed.total_seconds() for answer in answers) < 10
    wait_until(lambda: held(hardened) == before)  # once the connections are closed


def test_one_too_many_is_refused(start):
    """With as many held as there may be, a question to hold is a 503 that says when to come
    back; one that needs no holding is answered all the same. Whoever leaves makes room."""
    server = start("long_polling/server_hardened.py", MAX_HELD=2)
    job, done = submit(server.url), submit(server.url, 0)
    path = job.removeprefix(server.url)
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    for connection in connections:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nPrefer: wait=20\r\n\r\n".encode())
    wait_until_held(server, 2)
    refused = ask(job)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "5"
    assert refused.json()["message"] == "too many questions are held here"
    assert ask(job, prefer=None).json()["status"] == "pending"
    assert ask(done).json()["status"] == "done"
    connections[0].close()
    wait_until_held(server, 1)
    assert ask(job, "wait=1").status_code == 200
    connections[1].close()


def test_the_hardened_server_keeps_the_contract(hardened):
    """The hardened server answers as the plain one does: where to ask, held or not, done."""
    submitted = post(f"{hardened.url}/jobs", json={"seconds": 0.5})
    token = submitted.json()["token"]
    assert submitted.headers["Location"] == f"/jobs/{token}"
    assert submitted.headers["Retry-After"] == "1"
    job = hardened.url + submitted.headers["Location"]
    pending = ask(job, prefer=None)
    assert pending.json() == {"token": token, "status": "pending"}
    assert pending.headers["Retry-After"] == "1"
    assert "Preference-Applied" not in pending.headers
    done = ask(job)
    assert done.headers["Preference-Applied"] == "wait=20"
    assert done.json() == {"token": token, "status": "done", "result": 42}
    assert "Retry-After" not in done.headers
    assert get(f"{hardened.url}/jobs/made-up", headers=HELD).status_code == 404


def test_a_hold_ends_in_time(start):
    """The hardened server holds no longer than it wants to, and nobody is told to pause after
    a hold."""
    server = start("long_polling/server_hardened.py", MAX_WAIT=1)
    answer = ask(submit(server.url), "wait=60")
    assert answer.json()["status"] == "pending"
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert "Retry-After" not in answer.headers
    assert answer.headers["Connection"] == "keep-alive"


def test_a_result_is_let_go(start):
    """A result is kept for a while, and then the token is a 404."""
    server = start("long_polling/server_hardened.py", KEEP=0.5)
    job = submit(server.url, 0.1)
    assert ask(job).json()["status"] == "done"
    wait_until(lambda: ask(job).status_code == 404)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["server.py", "server_hardened.py"])
def test_stops_at_once_with_questions_held(start, tap, beside, name, number):
    """A server that is told to stop answers whom it holds, and ends at once, not after the
    15 seconds for which Sanic would wait."""
    server = start(f"long_polling/{name}")
    wire = tap(server)
    job = submit(server.url).replace(server.url, wire.url)
    waits = beside.submit(ask, job)
    arrived(wire)
    before = time.monotonic()
    assert server.stop(number) == 0
    assert time.monotonic() - before < 5
    answer = waits.result()
    assert (answer.status_code, answer.json()["status"]) == (200, "pending")


# Wrong


def difference(right, wrong):
    """Return how a wrong program differs from the right one, below their heads."""
    texts = []
    for name in right, wrong:
        text = (EXAMPLES / "long_polling" / name).read_text()
        text = text.split('"""\n\n', 1)[1]
        texts.append(re.sub(r"(?m)^ *# --8<-- .*\n", "", text).splitlines())
    lines = list(difflib.unified_diff(*texts, right, wrong, n=1, lineterm=""))
    return "\n".join(re.sub("^@@.*", "@@", line) for line in lines) + "\n"


def test_a_wrong_program_differs_in_a_few_lines(record):
    """Each wrong program is the right one with a few lines changed."""
    for name in "wrong_timeout", "wrong_blocking", "wrong_shared_future", "wrong_shutdown":
        changed = re.findall("(?m)^[-+](?![-+])", difference("server.py", f"{name}.py"))
        assert 1 <= len(changed) <= 7, name
    record("long_polling/wrong_timeout.diff", difference("server.py", "wrong_timeout.py"))
    record("long_polling/wrong_blocking.diff", difference("server.py", "wrong_blocking.py"))
    record("long_polling/wrong_future.diff", difference("server.py", "wrong_shared_future.py"))
    record("long_polling/wrong_shutdown.diff", difference("server.py", "wrong_shutdown.py"))
    client = difference("client.py", "wrong_client_timeout.py")
    record("long_polling/wrong_client_timeout.diff", client)


def test_a_hold_beyond_the_servers_own_timer_is_503(start, tap, beside, record):
    """A server that holds for longer than its framework's timer answers 503 and closes, in the
    middle of the wait; one that sets that timer above its longest hold answers pending."""
    timer = {"SANIC_RESPONSE_TIMEOUT": 1}
    wrong = tap(start("long_polling/wrong_timeout.py", errors_expected=True, **timer))
    right = start("long_polling/server.py", MAX_WAIT=4, **timer)
    fine = beside.submit(ask, submit(right.url), "wait=4")
    answer = ask(submit(wrong.url), "wait=4")
    assert answer.status_code == 503
    assert answer.json()["message"] == "Response Timeout"
    assert answer.headers["Connection"] == "close"
    assert (fine.result().status_code, fine.result().json()["status"]) == (200, "pending")
    shown = messages(wrong.events)[-2:]
    record("long_polling/wrong_timeout.html", transcript(shown, "Held for too long"))


def order(server, tap, beside):
    """Return who was answered first: a question that is held, or another that came after it."""
    wire = tap(server)
    job, other = submit(wire.url, 1), submit(wire.url)
    waits = beside.submit(ask, job, "wait=2")
    asked(wire)
    quick = beside.submit(ask, other, prefer=None)
    asked(wire, 2)
    waits, quick = waits.result().json(), quick.result()
    assert quick.status_code == 200
    pairs = exchanges(messages(wire.events))[2:]
    pairs.sort(key=lambda pair: pair[1].at)
    names = {job.removeprefix(wire.url): "the question that is held"}
    lines = [names.get(q.target, "another question") + f": {label(a)}" for q, a in pairs]
    return "\n".join(f"{n}. {line}" for n, line in enumerate(lines, 1)) + "\n"


def test_a_handler_that_sleeps_stops_everyone(start, tap, beside, record):
    """While a handler sleeps nobody else is answered, and the job itself makes no progress: a
    job of 1 s is pending after 2. A handler that awaits keeps nobody waiting."""
    wrong = order(start("long_polling/wrong_blocking.py", errors_expected=True), tap, beside)
    right = order(start("long_polling/server.py"), tap, beside)
    assert wrong.splitlines()[0] == "1. the question that is held: 200 pending"
    assert right.splitlines()[0] == "1. another question: 200 pending"
    assert right.splitlines()[1] == "2. the question that is held: 200 done"
    record("long_polling/wrong_blocking.txt", wrong)
    record("long_polling/right_blocking.txt", right)


def test_a_linter_finds_the_sleep():
    """A linter finds time.sleep in a handler: rule ASYNC251 of ruff."""
    ran = subprocess.run(
        ["ruff", "check", "--isolated", "--select", "ASYNC", "wrong_blocking.py"],
        cwd=EXAMPLES / "long_polling",
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert "ASYNC251" in ran.stdout


def test_awaiting_what_is_shared_lets_one_cancel_it_for_all(start, tap, beside, record):
    """Where every handler awaits the job itself, one client that leaves cancels it: whoever
    else waits gets a 500, and so does whoever asks later. With asyncio.wait all of them are
    told done."""
    outcome = {}
    for name in "wrong_shared_future.py", "server.py":
        server = start(f"long_polling/{name}", errors_expected=name.startswith("wrong"))
        wire = tap(server)
        job = submit(server.url, 3)
        stays = beside.submit(ask, job.replace(server.url, wire.url))
        asked(wire)
        with pytest.raises(httpx2.ReadTimeout):
            get(job, headers=HELD, timeout=httpx2.Timeout(30, read=0.5))
        found = stays.result()
        outcome[name] = (found.status_code, ask(job).status_code)
        if name.startswith("wrong"):
            record(
                "long_polling/wrong_future.html",
                transcript(messages(wire.events), "Another client left"),
            )
    assert outcome == {"wrong_shared_future.py": (500, 500), "server.py": (200, 200)}


def test_a_wait_that_runs_out_kills_the_job(start):
    """Where a handler awaits the job itself with a limit, the end of the wait is the end of the
    job."""
    job = submit(start("long_polling/wrong_shared_future.py", errors_expected=True).url, 10)
    assert ask(job, "wait=1").json()["status"] == "pending"
    assert ask(job).status_code == 500


def test_a_stop_that_lets_go_too_late_drops_everyone(start, tap, run, beside, record):
    """A server that releases its holds after it has stopped, and not before, lets them hang
    until its grace is over and then drops them: the client gets no answer at all."""
    server = start(
        "long_polling/wrong_shutdown.py", errors_expected=True, SANIC_GRACEFUL_SHUTDOWN_TIMEOUT=1
    )
    wire = tap(server)
    client = beside.submit(run, "long_polling/client.py", URL=wire.url, SECONDS=60)
    arrived(wire)
    server.stop(errors_expected=True)
    result = client.result()
    assert result.returncode == 1
    pairs = exchanges(messages(wire.events))
    ((question, answer),) = [pair for pair in pairs if pair[0].method == "GET"]
    assert answer is None
    ends = [e.at for e in wire.events if (e.source, e.kind) == ("server", "end")]
    assert ends[-1] - question.at > 0.9  # of the one second of grace
    record("long_polling/wrong_shutdown.txt", result.stdout + result.stderr)


# A feed


@pytest.fixture(scope="module")
def feed(start_shared):
    """Return the feed, running, with a hundred messages kept."""
    return start_shared("long_polling/feed_server.py", KEEP=100)


def say(server, text):
    answer = post(f"{server.url}/messages", json={"text": text})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def read(server, after, prefer="wait=20"):
    return get(
        f"{server.url}/messages",
        params={"after": after},
        headers={"Prefer": prefer} if prefer else {},
        timeout=30,
    )


def heard(server, tap, run, beside, kind):
    """Return what a client prints when a message comes right between two of its questions.

    "one" comes while a question is held; "two" when its answer has left the server and not
    reached the client; "three" when the client has asked again.
    """
    answers = []

    def between(event):
        if event.source == "server" and b'"messages"' in event.data and not answers:
            answers.append(event)
            say(server, "two")

    wire = tap(server, on_data=between)
    client = beside.submit(run, f"long_polling/{kind}_client.py", URL=wire.url, WAIT=3)
    arrived(wire)
    say(server, "one")
    # With a cursor the second question is answered at once, and the third is held.
    arrived(wire, 3 if kind == "feed" else 2)
    say(server, "three")
    result = client.result()
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_message_between_two_polls_is_lost_without_a_cursor(start, tap, run, beside, record):
    """A message that comes between two questions is lost if the client does not say where it
    is, and is there if it does."""
    right, wrong = (start(f"long_polling/{kind}_server.py") for kind in ("feed", "wrong_feed"))
    with_cursor = beside.submit(heard, right, tap, run, beside, "feed")
    without = heard(wrong, tap, run, beside, "wrong_feed")
    assert without.splitlines() == ["1: one", "3: three", "nothing new"]
    with_cursor = with_cursor.result()
    assert with_cursor.splitlines() == ["1: one", "2: two", "3: three", "nothing new"]
    record("long_polling/wrong_feed.txt", without)
    record("long_polling/feed.txt", with_cursor)


def test_news_wakes_all_who_wait(feed, beside):
    """A message is told at once to all who wait for it, and to each the same."""
    last = read(feed, 0, prefer=None).json()["last"]
    waits = [beside.submit(read, feed, last) for _ in range(20)]
    number = say(feed, "hello")
    for answer in waits:
        assert answer.result().elapsed.total_seconds() < 10
        assert answer.result().json() == {
            "messages": [{"id": number, "text": "hello"}],
            "missed": 0,
            "last": number,
        }


def test_reading_changes_nothing(feed):
    """Where a client is stands in its question alone: the same question gets the same answer,
    and one whose answer was lost is asked again."""
    number = say(feed, "again")
    answers = [read(feed, number - 1).json() for _ in range(3)]
    assert (
        answers
        == [{"messages": [{"id": number, "text": "again"}], "missed": 0, "last": number}] * 3
    )


def test_nothing_new_is_an_empty_answer(feed):
    """When the wait is over and nothing came, the answer has no messages and the same cursor."""
    number = say(feed, "x")
    answer = read(feed, number, "wait=1")
    assert answer.json() == {"messages": [], "missed": 0, "last": number}
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_feed_is_bounded_and_says_what_was_missed(start, run):
    """The feed keeps so many messages; a client that comes too late for some is told how many
    it has missed."""
    server = start("long_polling/feed_server.py", KEEP=3)
    for text in "abcde":
        say(server, text)
    answer = read(server, 1).json()
    assert [message["text"] for message in answer["messages"]] == ["c", "d", "e"]
    assert answer["missed"] == 1
    assert read(server, 2).json()["missed"] == 0
    client = run("long_polling/feed_client.py", URL=server.url, WAIT=1)
    assert client.stdout.splitlines() == ["missed 2", "3: c", "4: d", "5: e", "nothing new"]


def test_a_cursor_from_before_a_restart_is_410(start, canned, run):
    """A cursor that the feed never gave out is a 410: the client starts anew, and does not wait
    for a number that comes again."""
    server = start("long_polling/feed_server.py")
    answer = read(server, 7)
    assert answer.status_code == 410
    assert "ask for after=0" in answer.json()["message"]
    first = {"messages": [{"id": 7, "text": "old"}], "missed": 0, "last": 7}
    anew = {"messages": [{"id": 1, "text": "new"}], "missed": 0, "last": 1}
    quiet = {"messages": [], "missed": 0, "last": 1}
    fake = canned((200, {}, first), (410, {}, {}), (200, {}, anew), (200, {}, quiet))
    client = run("long_polling/feed_client.py", URL=fake.url)
    assert client.stdout.splitlines() == [
        "7: old",
        "the feed has started anew",
        "1: new",
        "nothing new",
    ]
    cursors = [path.split("after=")[1] for _, path, _ in fake.requests]
    assert cursors == ["0", "7", "0", "1"]


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 20])
def test_a_cursor_that_is_none_is_400(feed, after):
    """A cursor that is no number is a 400 that says what one is."""
    answer = read(feed, after)
    assert answer.status_code == 400
    assert answer.json()["message"] == "after is the id of a message, or 0"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"text": 1}', b'{"text": "%s"}' % (b"x" * 1001)]
)
def test_a_message_that_is_none_is_400(feed, body):
    """What is no message is a 400, and is not put into the feed."""
    last = read(feed, 0, prefer=None).json()["last"]
    assert post(f"{feed.url}/messages", content=body).status_code == 400
    assert read(feed, 0, prefer=None).json()["last"] == last


def test_curl_says_something(feed, tmp_path):
    """Messages can be handed in by curl, with quotes and all."""
    last = read(feed, 0, prefer=None).json()["last"]
    texts = ['say "by hand"', "C:\\new", "it's"]
    home = copy_isolated(EXAMPLES / "long_polling/feed_say.sh", tmp_path / "hand")
    result = run_to_end(["sh", "feed_say.sh", *texts], home, environment(URL=feed.url))
    assert result.returncode == 0, result.stderr
    assert [each["text"] for each in read(feed, last).json()["messages"]] == texts


@pytest.mark.parametrize("name", ["feed_server.py", "wrong_feed_server.py"])
def test_the_feed_stops_at_once(start, tap, beside, name):
    """The feed answers all who are held when it stops, and ends at once."""
    server = start(f"long_polling/{name}")
    wire = tap(server)
    waits = beside.submit(ask, f"{wire.url}/messages")
    arrived(wire)
    assert server.stop() == 0
    assert waits.result().status_code == 200


@pytest.mark.parametrize(
    "answer", [(500, {}, "oops"), (200, {}, "<h1>It works!</h1>"), (200, {}, {})]
)
def test_the_feeds_client_ends_with_one_line(run, canned, port, answer):
    """A client of the feed that finds nobody, or something else, says so in one line."""
    for url in canned(answer).url, f"http://127.0.0.1:{port()}":
        result = run("long_polling/feed_client.py", URL=url)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
