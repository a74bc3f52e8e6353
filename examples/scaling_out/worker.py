# /// script
# requires-python = ">=3.11"
# dependencies = ["redis==8.1.0"]
# ///
"""A worker: takes jobs from the queue in Redis and publishes results.

It runs until stopped, and finishes the job that it has first.

- Run: `uv run worker.py`
- or: `pip install redis==8.1.0 && python worker.py`
- Same folder: event_log.py
- Needs: Redis 6.2 or later; its address is in REDIS
  (default redis://127.0.0.1:6379)
- Source: consumer groups,
  https://redis.io/docs/latest/develop/data-types/streams/
"""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress

from redis.exceptions import RedisError, ResponseError

from event_log import RETRY_INTERVAL, append, connect_redis, diagnose

JOB_SECONDS = float(os.environ.get("JOB_SECONDS", 2))
MIN_IDLE = float(os.environ.get("MIN_IDLE", 30))  # s; see claim_job
MAX_ATTEMPTS = int(os.environ.get("MAX_ATTEMPTS", 3))  # at one job
# A worker that is restarted with the same name is the same consumer.
NAME = os.environ.get(
    "WORKER_NAME", f"{socket.gethostname()}-{os.getpid()}"
)


async def run_job(text):
    """Stand in for slow work: a report, a video, a model."""
    await asyncio.sleep(JOB_SECONDS)
    return f"{text}: done"


# --8<-- [start:work]
async def work(redis, name):
    """Do one job, if there is one."""
    with suppress(ResponseError):  # the group exists already
        await redis.xgroup_create(
            "jobs", "workers", id="0", mkstream=True
        )
    job = await claim_job(redis, name) or await next_job(redis, name)
    if not job:
        return
    job_id, text = job
    print(f"started {text}", flush=True)
    if await attempts(redis, job_id) > MAX_ATTEMPTS:
        result = f"{text}: failed"  # it may have killed its workers
    else:
        result = await run_job(text)
    # Publish the result before the job is acknowledged. If the worker
    # dies in between, the job is done again, and the key makes its
    # result the same event.
    await append(redis, "events", result, f"job-{job_id}")
    await redis.xack("jobs", "workers", job_id)
    await redis.xdel("jobs", job_id)
    print(f"finished {text}", flush=True)


async def claim_job(redis, name):
    """Return a job that another worker has had for MIN_IDLE seconds.

    That worker is taken for dead, so jobs must be shorter than that.
    """
    _, jobs, *_ = await redis.xautoclaim(
        "jobs", "workers", name, int(MIN_IDLE * 1000), count=1
    )
    return (jobs[0][0], jobs[0][1]["text"]) if jobs else None


async def next_job(redis, name):
    """Return a new job, or None after half a second without one."""
    new = await redis.xreadgroup(
        "workers", name, {"jobs": ">"}, count=1, block=500
    )
    return (new[0][1][0][0], new[0][1][0][1]["text"]) if new else None


async def attempts(redis, job_id):
    """Return how many times a job has been taken."""
    pending = await redis.xpending_range(
        "jobs", "workers", job_id, job_id, 1
    )
    return pending[0]["times_delivered"] if pending else 1
# --8<-- [end:work]


async def check_version(redis):
    """Exit with one line if Redis is too old."""
    version = (await redis.info("server"))["redis_version"]
    if tuple(map(int, version.split(".")[:2])) < (6, 2):
        await redis.aclose()
        sys.exit(f"Redis 6.2 or later is needed, and this is {version}")


async def main():
    """Do one job after another until SIGINT or SIGTERM."""
    stopping = asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        asyncio.get_running_loop().add_signal_handler(
            number, stopping.set
        )
    redis = connect_redis()
    print(f"Worker ready: {NAME}", flush=True)
    checked = False
    while not stopping.is_set():
        try:
            if not checked:
                await check_version(redis)
                checked = True
            await work(redis, NAME)
        except RedisError as error:
            print(f"the log is {diagnose(error)}: {error}", flush=True)
            await asyncio.sleep(RETRY_INTERVAL)
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
