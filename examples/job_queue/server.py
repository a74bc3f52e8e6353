# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server with a bounded queue and two workers.

Jobs are done in the order of their arrival. A pending job has a
position in the queue. A job that finds the queue full is rejected,
with the time after which to try again.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Source: 503 and Retry-After, RFC 9110 §15.6.4 and §10.2.3
"""

import asyncio
import os
import secrets

from sanic import BadRequest, NotFound, Sanic, ServiceUnavailable, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
WORKERS = int(os.environ.get("WORKERS", 2))
MAX_QUEUE = int(os.environ.get("MAX_QUEUE", 20))  # waiting jobs

app = Sanic("job_queue")
app.config.FALLBACK_ERROR_FORMAT = "json"
jobs: dict[str, dict] = {}
waiting: list[dict] = []  # in the order of their arrival
available = asyncio.Semaphore(0)  # one for each waiting job
workers: list[asyncio.Task] = []


# --8<-- [start:parse_job]
def parse_job(body):
    """Return a job's length in seconds; reject any other body (400)."""
    seconds = body.get("seconds") if isinstance(body, dict) else None
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    return seconds
# --8<-- [end:parse_job]


# --8<-- [start:retry_after]
def retry_after(ahead):
    """Return the header: the seconds until these jobs have begun."""
    seconds = sum(job["seconds"] for job in ahead) / WORKERS
    return {"Retry-After": str(1 + int(seconds))}
# --8<-- [end:retry_after]


# --8<-- [start:work]
async def work():
    """Do one job after the other, as they come."""
    while True:
        await available.acquire()
        job = waiting.pop(0)
        # Stand in for slow work: a report, a video, a model.
        await asyncio.sleep(job["seconds"])
        job |= {"status": "done", "result": 42}
# --8<-- [end:work]


# --8<-- [start:create_job]
@app.post("/jobs")
async def create_job(request):
    """Queue a job and return its token, or reject it (503)."""
    seconds = parse_job(request.json)
    if len(waiting) >= MAX_QUEUE:
        later = retry_after(waiting)
        raise ServiceUnavailable("the queue is full", headers=later)
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    job = {"token": token, "status": "pending", "seconds": seconds}
    jobs[token] = job
    waiting.append(job)
    available.release()
    fields = {"Location": f"/jobs/{token}"} | retry_after(waiting)
    return json(job | {"position": len(waiting)}, 202, fields)
# --8<-- [end:create_job]


# --8<-- [start:get_job]
@app.get("/jobs/<token>")
async def get_job(request, token):
    """Return a job: its position, or its result once it is done."""
    if token not in jobs:
        raise NotFound("unknown token")
    job = jobs[token]
    if job["status"] == "done":
        return json(job)
    # The first in the queue has position 1; a worker has begun 0.
    position = waiting.index(job) + 1 if job in waiting else 0
    later = retry_after(waiting[:position])
    return json(job | {"position": position}, headers=later)
# --8<-- [end:get_job]


@app.before_server_start
async def start_workers(app):
    workers.extend(asyncio.create_task(work()) for _ in range(WORKERS))


@app.before_server_stop
async def stop_workers(app):
    """Leave no task behind when the server stops."""
    running = [task for task in workers if task.cancel()]
    await asyncio.gather(*running, return_exceptions=True)


if __name__ == "__main__":
    app.run(host=HOST, port=PORT, single_process=True)
