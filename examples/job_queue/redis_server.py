# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "redis==8.1.0",
#   "sanic==25.12.1",
#   "taskiq==0.13.0",
#   "taskiq-redis==1.2.4",
# ]
# ///
"""A job server whose queue is a stream in Redis.

Start any number of servers and workers, on any number of machines.

- Run: `uv run redis_server.py`
- or: `pip install redis==8.1.0 sanic==25.12.1 taskiq==0.13.0
  taskiq-redis==1.2.4 && python redis_server.py`
- Same folder: tasks.py
- Needs: Redis 7.0 or later, its address is in REDIS (default
  redis://127.0.0.1:6379), and workers: run_all.py starts them all
- Source: 503 and Retry-After, RFC 9110 §15.6.4 and §10.2.3; lag,
  https://redis.io/docs/latest/commands/xinfo-groups/
"""

import asyncio
import math
import os
import secrets
import time
from collections import deque
from contextlib import suppress

from redis.exceptions import RedisError, ResponseError
from sanic import (
    BadRequest,
    NotFound,
    Request,
    Sanic,
    ServiceUnavailable,
    json,
)
from taskiq.exceptions import TaskiqError
from taskiq_redis.exceptions import ResultIsMissingError

from tasks import LEASE, QUEUE, REDIS, broker, redis, run_job, wake

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
MAX_QUEUE = int(os.environ.get("MAX_QUEUE", 1000))  # with those begun
JOB_TTL = 86_400  # seconds in which a job ends


# --8<-- [start:SafeRequest]
class SafeRequest(Request):
    """A request that no client can turn into a traceback or a leak."""

    def __init__(self, url_bytes, *args, method, **kwargs):
        # Sanic reports an invalid target by means of a request with
        # the method NONE and the same target, and fails on it again.
        if method == "NONE":
            url_bytes = b"*"
        super().__init__(url_bytes, *args, method=method, **kwargs)
        # No response here depends on Accept, and Sanic responds with
        # 500 to an Accept that it cannot parse.
        self.headers.popall("accept", None)

    async def respond(self, *args, **kwargs):
        # Sanic waits without a limit for the rest of a body that was
        # not read to its end. Close the connection instead.
        if self.stream.request_body:
            self.stream.request_body = None
            self.stream.keep_alive = False
        return await super().respond(*args, **kwargs)
# --8<-- [end:SafeRequest]


app = Sanic("redis_server", request_class=SafeRequest)
app.config.FALLBACK_ERROR_FORMAT = "json"
app.config.REQUEST_MAX_SIZE = 10_000  # bytes; default 100 MB
adding = asyncio.Lock()
samples = deque(maxlen=20)  # (time, jobs that have ended until then)


# --8<-- [start:parse_job]
def parse_job(body):
    """Return a job's length in seconds; reject any other body (400)."""
    seconds = body.get("seconds") if isinstance(body, dict) else None
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    return seconds
# --8<-- [end:parse_job]


# --8<-- [start:queue_length]
async def queue_length():
    """Return how many jobs wait, and how many have begun.

    Both are counted by Redis: entries that no worker has read, and
    entries that are not acknowledged.
    """
    (group,) = await redis.xinfo_groups(QUEUE)
    ended = (group["entries-read"] or 0) - group["pending"]
    samples.append((time.monotonic(), ended))
    return group["lag"] or 0, group["pending"]


def retry_after(jobs):
    """Return the header: how long so many jobs take, as measured."""
    (first, before), (last, after) = samples[0], samples[-1]
    each = (last - first) / (after - before) if after > before else 1
    return {"Retry-After": str(min(600, math.ceil(1 + jobs * each)))}
# --8<-- [end:queue_length]


# --8<-- [start:create_job]
@app.post("/jobs")
async def create_job(request):
    """Queue a job and return its token, or reject it (503)."""
    seconds = parse_job(request.json)
    async with adding:  # one request at a time counts and adds
        length = sum(await queue_length())
        if length >= MAX_QUEUE:
            later = retry_after(length)
            raise ServiceUnavailable("the queue is full", headers=later)
        token = secrets.token_urlsafe(16)  # 128 random bits
        # Before the job is queued, as a worker may be quick.
        await redis.set(f"job:{token}", "queued", ex=JOB_TTL)
        await run_job.kicker().with_task_id(token).kiq(seconds)
    pending = {"token": token, "status": "pending"}
    location = {"Location": f"{request.path}/{token}"}
    return json(pending, 202, location | retry_after(length + 1))
# --8<-- [end:create_job]


@app.get("/jobs/<token>")
async def get_job(request, token):
    """Return a job, with its result or error once it has ended."""
    job = {"token": token}
    try:
        result = await broker.result_backend.get_result(token)
    except ResultIsMissingError:
        if not await redis.exists(f"job:{token}"):
            raise NotFound("unknown token") from None
        later = retry_after(sum(await queue_length()))
        return json(job | {"status": "pending"}, headers=later)
    if result.is_err:
        error = str(result.error)
        return json(job | {"status": "failed", "error": error})
    return json(job | {"status": "done", "result": result.return_value})


@app.exception(RedisError, TaskiqError)
async def report_queue_error(request, error):
    """Respond with 503: Redis is down, or full."""
    print(f"cannot use {REDIS}: {error}", flush=True)
    message = {"status": 503, "message": "the queue cannot be used"}
    return json(message, 503, {"Retry-After": "10"})


# --8<-- [start:recover]
async def recover():
    """Have the jobs of crashed workers taken again.

    A worker looks for them only after it has received a job. So while
    none is waiting, send one that does nothing.
    """
    while True:
        with suppress(RedisError, TaskiqError):
            with suppress(ResponseError):  # it exists already
                await redis.xgroup_create(QUEUE, QUEUE, "0", True)
            waiting, begun = await queue_length()
            if begun and not waiting:
                await wake.kiq()
        await asyncio.sleep(min(LEASE / 2, 5))
# --8<-- [end:recover]


@app.before_server_start
async def start_recovery(app):
    app.ctx.recovery = asyncio.create_task(recover())


@app.before_server_stop
async def close_queue(app):
    """Leave no task behind. The jobs stay in Redis."""
    app.ctx.recovery.cancel()
    await asyncio.gather(app.ctx.recovery, return_exceptions=True)
    await broker.shutdown()
    await redis.aclose()


if __name__ == "__main__":
    app.run(host=HOST, port=PORT, single_process=True)
