"""A job queue in Redis: its limit, crashes of a worker and of Redis, and one command for all."""

import json
import os
import runpy
import signal
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import httpx2
import pytest
from redis import Redis

from .support.parts import require_program
from .support.processes import (
    EXAMPLES,
    READY,
    Program,
    argv,
    copy_isolated,
    environment,
    wait_until,
)

QUEUE = "jobs"


def submit(server, seconds=0):
    return httpx2.post(f"{server.url}/jobs", json={"seconds": seconds})


def get(server, token):
    return httpx2.get(f"{server.url}/jobs/{token}")


def accepted(server, seconds=0):
    """Submit a job until it is accepted; return its token.

    A first connection to Redis may take longer than the server waits for it: that is a 503.
    """
    return wait_until(lambda: submit(server, seconds).json().get("token"))


def result_of(server, token):
    """Return a job's result, or None while it is pending."""
    response = get(server, token)
    return response.json().get("result") if response.status_code == 200 else None


@pytest.fixture
def redis(start_redis):
    """Return a Redis of the test's own, which syncs each write as that of run_all.py does."""
    return start_redis("--appendfsync", "always")


def address(redis):
    return f"redis://127.0.0.1:{redis.port}"


@pytest.fixture
def server(start, redis):
    """Return a function that starts the server."""
    return lambda **options: start(
        "job_queue/redis_server.py", REDIS=address(redis), **({"LEASE": 1} | options)
    )


@pytest.fixture
def worker(tmp_path, redis):
    """Return a function that starts one worker by the command of run_all.py: a manager of Taskiq
    and one process for the jobs."""
    with patch.dict(os.environ, {"WORKERS": "1"}):
        command = runpy.run_path(str(EXAMPLES / "job_queue/run_all.py"))["WORKER"]
    running = []

    def worker(**options):
        options = {"REDIS": address(redis), "LEASE": 1} | options
        home = tmp_path / f"worker-{len(running)}"
        home.mkdir()
        running.append(Program(list(map(str, command)), home, environment(**options)))
        return running[-1]

    yield worker
    for each in running:
        each.send(signal.SIGKILL)
        each.wait()


def kill_process(worker):
    """Kill the process that does the jobs, and not its manager."""
    (child,) = [
        child for child in worker.children() if b"resource_tracker" not in command_line(child)
    ]
    os.kill(child, signal.SIGKILL)


def command_line(number):
    return Path(f"/proc/{number}/cmdline").read_bytes()


def test_a_job_in_redis_is_done(server, worker):
    """A worker does a job that was queued in Redis before it started, and the server returns its
    result; an unknown token is a 404."""
    running = server()
    token = accepted(running)
    assert get(running, token).json() == {"token": token, "status": "pending"}
    worker()
    wait_until(lambda: result_of(running, token) == 42)
    assert get(running, token).json() == {"token": token, "status": "done", "result": 42}
    assert get(running, "unknown").status_code == 404


@pytest.mark.parametrize("body", ["", "{", "[]", '{"seconds": true}', '{"seconds": 1e400}'])
def test_a_wrong_job_is_400(server, body):
    """The server of the queue in Redis rejects a body that is not a job with 400."""
    headers = {"Content-Type": "application/json"}
    response = httpx2.post(f"{server().url}/jobs", content=body, headers=headers)
    assert response.status_code == 400


def test_a_full_queue_in_redis_is_503(server, redis):
    """Of 20 clients that submit a job at once to a queue for ten, ten get 202, and each other one
    503 with Retry-After."""
    running, client = server(MAX_QUEUE=10), Redis(port=redis.port)
    with ExitStack() as open_sockets:
        sockets = [
            open_sockets.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            for _ in range(20)
        ]
        # While Redis accepts no write, all requests arrive before the first job is added. A server
        # waits for Redis for five seconds.
        client.client_pause(20_000, all=False)
        for each in sockets:
            each.sendall(
                b"POST /jobs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                b'Content-Length: 13\r\n\r\n{"seconds":0}'
            )
        httpx2.get(f"{running.url}/nothing")  # the server has read what came before
        client.client_unpause()
        responses = [each.makefile().read() for each in sockets]
    statuses = Counter(response.split()[1] for response in responses)
    assert statuses == {"202": 10, "503": 10}
    # No job has ended, so there is no rate yet: one second for each.
    rejected = [response for response in responses if " 503 " in response]
    assert all("\nRetry-After: 11\n" in response for response in rejected)


def test_a_worker_takes_one_job_at_a_time(server, worker, redis):
    """A worker takes one of five jobs from the stream, and leaves four to others."""
    running = server(LEASE=120)
    tokens = [accepted(running, 60) for _ in range(5)]
    worker(LEASE=120).wait_for(*(f"started {token}" for token in tokens))
    (group,) = Redis(port=redis.port).xinfo_groups(QUEUE)
    assert (group["pending"], group["lag"]) == (1, 4)


def test_a_job_in_redis_survives_its_worker(server, worker):
    """A worker is killed in a job, and no job is submitted afterwards: another worker does the job
    when its lease has ended."""
    running, first = server(), worker()
    token = accepted(running, 0.5)
    first.wait_for(f"started {token}")
    first.send(signal.SIGKILL)
    second = worker()
    second.wait_for(f"done {token}")
    wait_until(lambda: result_of(running, token) == 42)


def test_a_worker_looks_for_lost_jobs_after_a_job(redis, worker):
    """Without a new job, a worker of Taskiq leaves the job of a killed worker alone though its
    lease ended five seconds ago; with one, it takes the job."""
    client = Redis(port=redis.port, decode_responses=True)
    client.xgroup_create(QUEUE, QUEUE, "0", mkstream=True)

    def send(name, *args):
        message = {"task_id": name, "task_name": f"tasks:{name}", "labels": {}}
        client.xadd(QUEUE, {"data": json.dumps(message | {"args": args, "kwargs": {}})})

    def pending():
        return client.xpending_range(QUEUE, QUEUE, "-", "+", 10)

    first = worker()
    send("run_job", 0.5)
    first.wait_for("started run_job")
    first.send(signal.SIGKILL)
    second = worker()
    # It waits for a job, with the other one gone.
    wait_until(lambda: [each["cmd"] for each in client.client_list()].count("xreadgroup") == 1)
    wait_until(lambda: pending()[0]["time_since_delivered"] > 6000)
    assert [each["times_delivered"] for each in pending()] == [1]
    send("wake")
    second.wait_for("done run_job")


def test_a_poison_job_in_redis_fails(server, worker):
    """A job that kills its worker each time is begun three times, and then it has failed."""
    running, works = server(), worker()
    token = accepted(running, 60)
    for attempt in range(1, 4):
        wait_until(lambda count=attempt: works.output.count(f"started {token}") == count)
        kill_process(works)
    wait_until(lambda: get(running, token).json()["status"] == "failed")
    assert get(running, token).json()["error"] == "its worker crashed each time"
    assert works.output.count(f"started {token}") == 3


def test_redis_is_away(server, worker, redis, start_redis):
    """While Redis is down, the server responds with 503 and Retry-After; when Redis is back, the
    job that it had is done, and new ones are accepted."""
    running = server()
    token = accepted(running)
    redis.stop(signal.SIGKILL)
    for response in submit(running), get(running, token):
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
    start_redis.stop_at_end(redis.again())
    assert get(running, token).json()["status"] == "pending"
    worker()
    wait_until(lambda: result_of(running, token) == 42)
    assert submit(running).status_code == 202


def test_a_worker_survives_redis(server, worker, redis, start_redis):
    """A worker that has lost Redis does the next job when Redis is back."""
    running, works = server(), worker()
    # On a busy machine the first connection to Redis may take longer than the server waits.
    token = accepted(running)
    works.wait_for(f"done {token}")
    redis.stop(signal.SIGKILL)
    wait_until(lambda: submit(running).status_code == 503)
    start_redis.stop_at_end(redis.again())
    following = accepted(running)
    works.wait_for(f"done {following}")


def test_one_command_starts_and_stops_all(tmp_path, port):
    """One command starts Redis, the server and two workers; Ctrl-C stops all of their processes,
    and a job that waits is done after the next start."""
    require_program("redis-server")
    example = EXAMPLES / "job_queue/run_all.py"
    folder = copy_isolated(example, tmp_path / "alone")

    def start():
        number = port()
        return Program(argv(example), folder, environment(PORT=number), number).wait_for(*READY)

    first = start()
    token = accepted(first, 0)
    wait_until(lambda: result_of(first, token) == 42)
    lasting = [accepted(first, 60) for _ in range(2)]
    for each in lasting:
        first.wait_for(f"started {each}")
    waiting = accepted(first, 0)
    processes = session(first.process.pid)
    assert len(processes) >= 6  # this one, Redis, the server, the manager and two workers
    first.process.send_signal(signal.SIGINT)
    assert first.wait() == 0
    assert not session(first.process.pid)
    second = start()
    second.wait_for(f"done {waiting}")
    second.process.send_signal(signal.SIGINT)
    assert second.wait() == 0


def session(number):
    """Return the process ids of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == number and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found
