# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: its queue has no limit.

While jobs arrive faster than they are done, the queue grows, and with
it the delay of each new job.

- Run: `uv run wrong_unbounded.py`
- or: `pip install sanic==25.12.1 && python wrong_unbounded.py`
- Try: `curl -d '{"seconds": 9}' '127.0.0.1:8000/jobs?[1-25]'`
- Source: server.py, which is right
"""

import asyncio
import os
import secrets

from sanic import BadRequest, NotFound, Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
WORKERS = int(os.environ.get("WORKERS", 2))

app = Sanic("job_queue")
app.config.FALLBACK_ERROR_FORMAT = "json"
jobs: dict[str, dict] = {}
waiting: list[dict] = []  # in the order of their arrival
available = asyncio.Semaphore(0)  # one for each waiting job
workers: list[asyncio.Task] = []


def parse_job(body):
    """Return a job's length in seconds; reject any other body (400)."""
    seconds = body.get("seconds") if isinstance(body, dict) else None
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    return seconds


def retry_after(ahead):
    """Return the header: the seconds until these jobs have begun."""
    seconds = sum(job["seconds"] for job in ahead) / WORKERS
    return {"Retry-After": str(1 + int(seconds))}


async def work():
    """Do one job after the other, as they come."""
    while True:
        await available.acquire()
        job = waiting.pop(0)
        # Stand in for slow work: a report, a video, a model.
        await asyncio.sleep(job["seconds"])
        job |= {"status": "done", "result": 42}


@app.post("/jobs")
async def create_job(request):
    """Queue a job and return its token."""
    seconds = parse_job(request.json)
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    job = {"token": token, "status": "pending", "seconds": seconds}
    jobs[token] = job
    waiting.append(job)
    available.release()
    fields = {"Location": f"/jobs/{token}"} | retry_after(waiting)
    return json(job | {"position": len(waiting)}, 202, fields)


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
