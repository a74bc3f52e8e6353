"""Job queues: limits, positions, turns, leases, and what happens when a part crashes."""

import contextlib
import resource
import runpy
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from .support.bars import histograms
from .support.diffs import functions
from .support.messages import table
from .support.processes import (
    EXAMPLES,
    Program,
    argv,
    copy_isolated,
    environment,
    wait_until,
)
from .support.sequence import in_order

JobStore = runpy.run_path(str(EXAMPLES / "job_queue/job_store.py"))["JobStore"]
ALICE = {"Authorization": "Bearer alice-key"}
BOB = {"Authorization": "Bearer bob-key"}


def submit(server, seconds=0, owner=ALICE, key=None, **job):
    headers = owner | ({"Idempotency-Key": key} if key else {})
    return httpx2.post(f"{server.url}/jobs", json={"seconds": seconds} | job, headers=headers)


def get(server, token, owner=ALICE):
    response = httpx2.get(f"{server.url}/jobs/{token}", headers=owner)
    assert response.status_code == 200, response.text
    return response.json()


def token_of(response):
    assert response.status_code == 202, response.text
    return response.json()["token"]


# The quick start


def test_a_full_queue_is_503(start):
    """When as many jobs wait as the queue may hold, one more is rejected with 503 and
    Retry-After."""
    server = start("job_queue/server.py", WORKERS=1, MAX_QUEUE=3)
    running = token_of(submit(server, 60))
    wait_until(lambda: get(server, running)["position"] == 0)
    assert [submit(server, 60).status_code for _ in range(5)] == [202] * 3 + [503] * 2


def test_retry_after_is_computed(start):
    """Retry-After of a rejected job is the time that the waiting jobs take, divided by the
    workers."""
    server = start("job_queue/server.py", WORKERS=2, MAX_QUEUE=4)
    running = [token_of(submit(server, 60)) for _ in range(2)]
    wait_until(lambda: [get(server, token)["position"] for token in running] == [0, 0])
    for seconds in 10, 20, 30, 40:
        submit(server, seconds)
    rejected = submit(server, 60)
    assert rejected.status_code == 503
    assert rejected.headers["Retry-After"] == str(1 + (10 + 20 + 30 + 40) // 2)


def test_a_pending_job_has_a_position(start):
    """A waiting job has its position in the queue, and one that a worker has begun has 0."""
    server = start("job_queue/server.py", WORKERS=1)
    tokens = [token_of(submit(server, 60)) for _ in range(4)]
    wait_until(lambda: get(server, tokens[0])["position"] == 0)
    assert [get(server, token)["position"] for token in tokens] == [0, 1, 2, 3]


def test_a_job_is_queued_begun_or_rejected(start, record):
    """With one worker and room for one job, the first job is begun, the second waits at position
    1, and the third is rejected with 503 and the seconds after which to try again."""
    server = start("job_queue/server.py", WORKERS=1, MAX_QUEUE=1)
    drawn = []
    for name, expected in ("first", 0), ("second", 1):
        accepted = submit(server, 60)
        token = token_of(accepted)
        wait_until(lambda token=token, n=expected: get(server, token)["position"] == n)
        drawn += [("up", f"POST, the {name} job", ""), ("down", str(accepted.status_code), "")]
        drawn += [("up", f"GET the {name} job", ""), ("down", f"200 position {expected}", "")]
    rejected = submit(server, 60)
    later = rejected.headers["Retry-After"]
    assert (rejected.status_code, later) == (503, "61")
    drawn += [("up", "POST, the third job", ""), ("down", "503", "queue is full")]
    drawn += [("note", f"try after {later} s", "")]
    record("job_queue/timeline.json", in_order(drawn))


def test_jobs_are_done_in_order(start):
    """With one worker, jobs are done in the order of their arrival."""
    server = start("job_queue/server.py", WORKERS=1)
    tokens = [token_of(submit(server, 0.05)) for _ in range(5)]
    done = []
    while len(done) < 5:
        done += [t for t in tokens if t not in done and get(server, t)["status"] == "done"]
        assert done == tokens[: len(done)]


def test_the_client_follows_its_position(start, run, record):
    """The client prints its position until its job is done."""
    server = start("job_queue/server.py", WORKERS=1)
    submit(server, 1)
    submit(server, 1)
    client = run("job_queue/client.py", URL=server.url, SECONDS=0.5)
    assert client.returncode == 0
    lines = client.stdout.splitlines()
    assert lines[-1] == "done: 42"
    positions = [int(line.removeprefix("position ")) for line in lines[:-1]]
    assert positions[0] >= 1 and positions == sorted(positions, reverse=True)


def test_the_client_waits_while_the_queue_is_full(start, run):
    """The client of a full queue waits as long as Retry-After specifies, and resubmits its job."""
    server = start("job_queue/server.py", WORKERS=1, MAX_QUEUE=1)
    running = token_of(submit(server, 5))  # longer than a client takes to start
    wait_until(lambda: get(server, running)["position"] == 0)
    submit(server, 0.1)
    client = run("job_queue/client.py", URL=server.url, SECONDS=0.1)
    assert client.stdout.startswith("the queue is full\n")
    assert client.stdout.endswith("done: 42\n")


# Queue length and delay


def test_a_limit_bounds_the_delay(start, record):
    """Of 200 jobs, a queue for 20 accepts 20, and the last of them waits for 20 jobs; without a
    limit all are accepted, and the last one waits for 200."""
    rows = []
    for name in "server.py", "wrong_unbounded.py":
        server = start(f"job_queue/{name}", WORKERS=1, MAX_QUEUE=20)
        running = token_of(submit(server, 60))
        wait_until(lambda server=server, token=running: get(server, token)["position"] == 0)
        with httpx2.Client(base_url=server.url) as client:
            responses = [client.post("/jobs", json={"seconds": 60}) for _ in range(200)]
        accepted = [response for response in responses if response.status_code == 202]
        last = get(server, token_of(accepted[-1]))["position"]
        rows.append(
            {
                "server": f"`{name}`",
                "accepted": len(accepted),
                "rejected": len(responses) - len(accepted),
                "jobs before the last one": last,
            }
        )
    assert [row["accepted"] for row in rows] == [20, 200]
    assert [row["jobs before the last one"] for row in rows] == [20, 200]
    record("job_queue/limit.md", table(rows))


# The hardened server and its workers


@pytest.fixture
def store(tmp_path):
    """Return the store of the hardened server, opened by the test: the test works on the jobs."""
    with contextlib.closing(JobStore(tmp_path / "jobs.db")) as store:
        yield store


@pytest.fixture
def server(start, tmp_path):
    """Return a function that starts the hardened server, or starts it again."""
    return lambda **options: start(
        "job_queue/server_hardened.py", **({"FILE": tmp_path / "jobs.db"} | options)
    )


@pytest.fixture
def worker(tmp_path):
    """Return a function that starts a worker; stop the workers at the end."""
    running = []

    def worker(name="worker.py", **options):
        example = EXAMPLES / "job_queue" / name
        home = copy_isolated(example, tmp_path / f"worker-{len(running)}")
        options = {"FILE": tmp_path / "jobs.db", "POLL_INTERVAL": 0.02} | options
        running.append(Program(argv(example), home, environment(**options)))
        return running[-1].wait_for("waiting for jobs")

    yield worker
    for each in running:
        if each.process.poll() is None:
            assert each.stop() == 130


def kill(worker):
    """Kill a worker, and its job, as if the machine had lost power."""
    worker.send(signal.SIGKILL)
    worker.wait()


def finish_next(store):
    """Do the next job of a queue; return its token."""
    job = store.claim(60)
    store.finish(job, 42)
    return job["token"]


ROUNDS = 40


def loaded(server, store):
    """Submit two jobs whenever one is done, and then none; return (queue length after each job,
    delays of the jobs, in jobs, how many were rejected)."""
    lengths, since, delays, rejected = [], {}, [], 0
    while len(lengths) < ROUNDS or lengths[-1]:
        for _ in range(2 if len(lengths) < ROUNDS else 0):
            response = submit(server)
            if response.status_code == 503:
                rejected += 1
            else:
                since[token_of(response)] = len(lengths)
        waiting = sum(store.waiting().values())
        token = finish_next(store)
        delays.append(len(lengths) - since.pop(token))
        lengths.append(waiting - 1)
    return lengths, delays, rejected


def test_queue_length_and_delay(server, store, tmp_path, record):
    """Two jobs arrive for each one that is done. With a limit of ten the queue stays at nine and no
    job waits for more than nine others; without, both grow with each job."""
    limited = loaded(server(MAX_QUEUE=10, MAX_JOBS_PER_OWNER=1000), store)
    endless = loaded(server(MAX_QUEUE=1000, MAX_JOBS_PER_OWNER=1000), store)
    assert max(limited[0]) == 9 and max(limited[1]) == 9
    assert endless[0][:ROUNDS] == list(range(1, ROUNDS + 1))
    assert max(endless[1]) == ROUNDS
    for lengths, delays, _ in limited, endless:
        # Little's law, in jobs: the mean length is the mean delay times the arrivals for each job.
        assert sum(lengths) == sum(delays)
    record(
        "job_queue/length.svg",
        histograms(
            [
                ("without a limit", f"longest delay: {max(endless[1])} jobs", endless[0]),
                ("at most ten jobs", f"{limited[2]} rejected, longest delay: 9 jobs", limited[0]),
            ],
            "jobs",
            0,
            "jobs that wait, after each job that is done",
            "The length of a queue, with a limit and without",
            "Two jobs arrive for each that is done, until forty are done. Without a limit the "
            "queue grows to forty jobs and takes as long to become empty. With a limit of ten it "
            "stays at nine.",
        ),
    )


def test_owners_take_turns(server, store):
    """An owner with one job waits for one job of another owner who has queued a hundred."""
    running = server()
    hundred = [token_of(submit(running)) for _ in range(100)]
    finish_next(store)
    one = token_of(submit(running, owner=BOB))
    assert get(running, one, BOB)["position"] <= 2
    assert one in [finish_next(store) for _ in range(2)]
    assert get(running, hundred[-1])["position"] == 98


def test_without_turns_one_owner_waits_for_all_jobs_of_another(start):
    """On the quick-start server a job waits for all that were submitted before it."""
    server = start("job_queue/server.py", WORKERS=1, MAX_QUEUE=1000)
    for _ in range(101):
        submit(server, 60)
    last = token_of(submit(server, 0))
    assert get(server, last)["position"] >= 101


def test_priorities_order_the_jobs_of_an_owner(server, store):
    """A job with a higher priority is done before the owner's own jobs, and not before those of
    others."""
    running = server()
    low, high = token_of(submit(running)), token_of(submit(running, priority=9))
    other = token_of(submit(running, owner=BOB))
    assert [finish_next(store) for _ in range(3)] == [high, other, low]


@pytest.mark.parametrize(
    "job", [{"priority": 10}, {"priority": -1}, {"priority": True}, {"crash": 1}]
)
def test_wrong_parameters_are_400(server, job):
    """The server rejects a priority outside 0 to 9 with 400."""
    assert submit(server(), **job).status_code == 400


def test_a_share_of_the_queue(server):
    """An owner whose share of the queue is full gets 429 with Retry-After; another one is
    served. When the queue itself is full, both get 503."""
    running = server(MAX_JOBS_PER_OWNER=2, MAX_QUEUE=3)
    responses = [submit(running, 10) for _ in range(3)] + [submit(running, 10, BOB)] * 1
    assert [response.status_code for response in responses] == [202, 202, 429, 202]
    assert submit(running, 10, BOB).status_code == 503
    assert int(responses[2].headers["Retry-After"]) >= 1


def test_retry_after_is_measured(server, store, tmp_path):
    """Retry-After comes from the rate at which the last jobs ended: ten jobs that took ten seconds
    each, three jobs that wait."""
    running = server(MAX_JOBS_PER_OWNER=3)
    for number in range(11):
        submit(running, key=str(number))
        finish_next(store)
    store.db.execute("UPDATE jobs SET ended = 1000000000 + 10 * number")
    waiting = [submit(running, 10) for _ in range(3)]
    assert [response.headers["Retry-After"] for response in waiting] == ["11", "21", "31"]
    assert submit(running, 10).headers["Retry-After"] == "31"


def test_a_waiting_job_is_cancelled(server, store):
    """A job that is cancelled while it waits is never done."""
    running = server()
    token = token_of(submit(running))
    assert httpx2.delete(f"{running.url}/jobs/{token}", headers=BOB).status_code == 404
    cancelled = httpx2.delete(f"{running.url}/jobs/{token}", headers=ALICE)
    assert cancelled.json()["status"] == "cancelled"
    assert store.claim(60) is None


def test_a_running_job_is_cancelled(server, worker):
    """A worker ends a job that is cancelled while it runs, and takes the next one."""
    running, works = server(), worker(LEASE=0.3)
    token = token_of(submit(running, 60))
    works.wait_for(f"started {token}")
    httpx2.delete(f"{running.url}/jobs/{token}", headers=ALICE)
    works.wait_for(f"cancelled {token}")
    following = token_of(submit(running))
    works.wait_for(f"done {following}")
    assert get(running, token)["status"] == "cancelled"


def test_a_done_job_is_not_cancelled(server, store):
    """Cancelling a job that is done changes nothing: the response has its result."""
    running = server()
    token = token_of(submit(running))
    finish_next(store)
    response = httpx2.delete(f"{running.url}/jobs/{token}", headers=ALICE)
    assert response.json() == {"token": token, "status": "done", "result": 42}


def test_an_idempotency_key_queues_one_job(server):
    """The same request with the same Idempotency-Key returns the job that it has queued; another
    request with that key is a 422."""
    running = server()
    first, again = submit(running, 1, key="a"), submit(running, 1, key="a")
    assert token_of(first) == token_of(again)
    assert submit(running, 2, key="a").status_code == 422
    assert token_of(submit(running, 1, BOB, key="a")) != token_of(first)


def test_a_result_expires(server, store):
    """A result is deleted after its time; then its token is a 404."""
    first = server()
    token = token_of(submit(first))
    finish_next(store)
    assert get(first, token)["status"] == "done"
    first.stop()
    again = server(RESULT_TTL=0)
    wait_until(lambda: httpx2.get(f"{again.url}/jobs/{token}", headers=ALICE).status_code == 404)


# When a part crashes


def test_jobs_survive_the_server(server, worker):
    """The server is killed with jobs in the queue: after its restart they are done."""
    first = server()
    tokens = [token_of(submit(first)) for _ in range(5)]
    first.stop(signal.SIGKILL)
    works = worker()
    again = server()
    for token in tokens:
        works.wait_for(f"done {token}")
        assert get(again, token)["result"] == 42


def test_a_job_survives_its_worker(server, worker):
    """A worker is killed in a job: when its lease has ended, another worker does the job."""
    running, first = server(), worker(LEASE=0.5)
    token = token_of(submit(running, 0.4))
    first.wait_for(f"started {token}")
    kill(first)
    worker(LEASE=0.5).wait_for(f"done {token}")
    assert get(running, token)["result"] == 42


def add_jobs(store, *owners):
    """Add a job of each of these owners to the file."""
    job = {"seconds": 0, "crash": False, "priority": 0}
    return [store.submit(owner, None, job, 100, 100)["token"] for owner in owners]


def test_a_clock_that_is_set_back(store, monkeypatch):
    """A clock that is set back by an hour neither lengthens a lease nor changes whose turn it
    is."""
    add_jobs(store, "alice", "alice", "bob", "bob")
    first = store.claim(10)
    wall, clock = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: wall - 3600)
    turns = [first["owner"]] + [store.claim(3600)["owner"] for _ in range(3)]
    assert turns == ["alice", "bob", "alice", "bob"]
    assert store.claim(3600) is None
    monkeypatch.setattr(time, "monotonic", lambda: clock + 11)
    assert store.claim(3600)["token"] == first["token"]


def test_a_lease_ends_with_the_machine(store, monkeypatch):
    """After a restart of the machine, which starts the clock of the leases again, a job that a
    worker had taken before waits for one lease at most."""
    (token,) = add_jobs(store, "alice")
    store.claim(86_400)
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    assert store.claim(60)["token"] == token
    monkeypatch.setattr(time, "monotonic", lambda: 6.0)  # restarted, and a second later than before
    assert store.claim(60) is None
    monkeypatch.setattr(time, "monotonic", lambda: 5.0 + 60.1)
    assert store.claim(60)["token"] == token


def test_a_lease_that_is_too_long(server, worker, store):
    """With a lease of a day, no other worker takes the job of a worker that was killed."""
    running, first = server(), worker("wrong_long_lease.py")
    token = token_of(submit(running, 60))
    first.wait_for(f"started {token}")
    kill(first)
    second = worker()
    following = token_of(submit(running))
    second.wait_for(f"done {following}")
    assert get(running, token) == {"token": token, "status": "pending", "position": 0}


def test_a_lease_that_is_not_extended(server, worker):
    """Without an extension a second worker takes a job that lasts for longer than the lease, while
    the first one works on it; with it, the job is done by one worker."""
    running = server()
    wrong = [worker("wrong_no_extension.py", LEASE=0.5) for _ in range(2)]
    token = token_of(submit(running, 2))
    wait_until(lambda: sum(each.output.count(f"started {token}") for each in wrong) == 2)
    for each in wrong:
        each.stop()
    right = [worker(LEASE=2) for _ in range(2)]  # extended after 0.7 s
    token = token_of(submit(running, 5))
    wait_until(lambda: get(running, token)["status"] == "done")
    assert sum(each.output.count(f"started {token}") for each in right) == 1


def test_a_late_result_is_discarded(server, store):
    """A worker whose lease has ended cannot store a result: that of the next worker counts."""
    running = server()
    token = token_of(submit(running))
    late = store.claim(-1)
    current = store.claim(60)
    assert current["token"] == late["token"] == token
    assert not store.finish(late, 41)
    assert get(running, token)["status"] == "pending"
    assert store.finish(current, 42)
    assert get(running, token)["result"] == 42


def test_a_poison_job_fails(server, worker):
    """A job that kills its process is tried three times, and then it has failed; the worker does
    the next job."""
    running, works = server(), worker()
    token = token_of(submit(running, crash=True))
    following = token_of(submit(running))
    wait_until(lambda: get(running, token)["status"] == "failed")
    works.wait_for(f"done {following}")
    assert works.output.count(f"crashed {token}") == 3
    assert get(running, token)["error"] == "it crashed or timed out each time"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_stops_gives_its_job_back(server, worker, number):
    """A worker that is stopped in a job gives it back at once, and the attempt does not count."""
    running, first = server(), worker(LEASE=3600)
    token = token_of(submit(running, 60))
    first.wait_for(f"started {token}")
    assert first.stop(number) == 130
    second = worker()
    second.wait_for(f"started {token}")
    assert get(running, token)["position"] == 0


def test_two_hundred_clients_at_once(server, worker):
    """Two hundred clients submit a job at once to a queue for fifty with two workers: each gets 202
    or 503, and each accepted job is done once."""
    running = server(MAX_QUEUE=50, MAX_JOBS_PER_OWNER=1000)
    workers = [worker() for _ in range(2)]
    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(lambda _: submit(running, 0.01), range(200)))
    statuses = Counter(response.status_code for response in responses)
    assert set(statuses) <= {202, 503} and statuses[202] >= 50
    accepted = [token_of(response) for response in responses if response.status_code == 202]
    wait_until(lambda: all(get(running, token)["status"] == "done" for token in accepted))
    output = "".join(each.output for each in workers)
    assert [output.count(f"done {token}") for token in accepted] == [1] * len(accepted)


def test_the_hardened_server_extends_the_quick_start():
    """The hardened server has the handlers of the quick start."""
    quick = {"parse_job", "retry_after", "create_job", "get_job"}
    assert quick <= set(functions("job_queue/server.py"))
    assert quick <= set(functions("job_queue/server_hardened.py"))


# Hostile input, and a file that cannot be written


@pytest.mark.parametrize("key", [b"", b"\xff", b"a\x01", b"k" * 256])
def test_a_wrong_key_is_400(server, key):
    """An Idempotency-Key that is not 1 to 255 printable ASCII characters is a 400."""
    running = server()
    headers = ALICE | {"Idempotency-Key": key}
    response = httpx2.post(f"{running.url}/jobs", json={"seconds": 0}, headers=headers)
    assert response.status_code == 400


def test_a_job_that_never_ends_fails(server, worker):
    """A worker ends a job that takes longer than JOB_TIMEOUT; after three attempts it has
    failed."""
    running, works = server(), worker(LEASE=0.3, JOB_TIMEOUT=0)
    token = token_of(submit(running, 60))
    wait_until(lambda: get(running, token)["status"] == "failed")
    wait_until(lambda: works.output.count(f"timed out {token}") == 3)


def steps(store, ended):
    """Return how many instructions of SQLite a claim takes when 100 jobs wait and so many jobs of
    the same owners have ended."""
    with store.transaction() as db:
        db.execute("DELETE FROM jobs")
        db.executemany(
            "INSERT INTO jobs (token, owner, seconds, crash, priority, status, turn, ended)"
            " VALUES (?, ?, 0, 0, 0, ?, ?, ?)",
            [
                (f"ended {number}", f"{number % 2}", "done", number, number)
                for number in range(ended)
            ]
            + [
                (f"waiting {number}", f"{number % 2}", "waiting", None, None)
                for number in range(100)
            ],
        )
    count = Counter()
    store.db.set_progress_handler(lambda: count.update("x"), 1)
    assert store.claim(60)
    store.db.set_progress_handler(None, 0)
    return count.total()


def test_a_claim_takes_no_longer_with_time(store):
    """A claim takes as many steps in a file with 5,000 ended jobs as in one with 50."""
    assert steps(store, 5000) < 1.1 * steps(store, 50)


def limit_files(program, size):
    """Limit the size of the files that a program can write, as if the disk were full there."""
    _, hard = resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def test_a_full_disk_is_503(server, worker):
    """When the disk is full, the server responds with 503 and Retry-After, and the worker waits;
    when there is room again, the server accepts jobs and the worker does them."""
    running, works = server(), worker()
    kept = token_of(submit(running))
    works.wait_for(f"done {kept}")
    for program in running, works:
        limit_files(program, 0)
    response = submit(running)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert get(running, kept)["result"] == 42
    limit_files(running, resource.RLIM_INFINITY)
    token = token_of(submit(running))
    works.wait_for("cannot use")
    limit_files(works, resource.RLIM_INFINITY)
    works.wait_for(f"done {token}")


def test_a_locked_file_delays_a_job(server, worker, store):
    """While another process has locked the file, a request waits; the worker and the server
    continue when the lock is released."""
    running, works = server(), worker()
    with ThreadPoolExecutor(1) as pool:
        with store.transaction():
            response = pool.submit(submit, running)
            # The event loop is not blocked: this needs no file.
            assert httpx2.post(f"{running.url}/jobs", json={}, headers=ALICE).status_code == 400
            assert not response.done()
        token = token_of(response.result())
    works.wait_for(f"done {token}")


def test_two_servers_share_one_queue(server):
    """Two servers with one file accept together as many jobs as the queue may hold, and each
    returns the jobs of the other."""
    first, second = server(MAX_QUEUE=5), server(MAX_QUEUE=5)
    responses = [submit(running) for running in (first, second) * 3]
    assert [each.status_code for each in responses] == [202] * 5 + [503]
    assert get(second, token_of(responses[0]))["status"] == "pending"
