# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""The queue with what production adds. Its workers are processes.

Jobs survive a crash of the server, and of a worker. Clients take
turns, have a share of the queue, and can cancel their jobs.

- Run: `uv run server_hardened.py`
- or: `pip install sanic==25.12.1 && python server_hardened.py`
- Same folder: job_store.py
- Try: start worker.py in the same folder; send "Authorization: Bearer
  alice-key" (or bob-key)
- Source: 503 and Retry-After, RFC 9110 §15.6.4 and §10.2.3; 429,
  RFC 6585 §4; Bearer, RFC 6750 §2.1
"""

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from sqlite3 import Error

from sanic import BadRequest, Blueprint, NotFound, Request, Sanic, json
from sanic.exceptions import SanicException, Unauthorized

from job_store import JobStore, Rejected

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
FILE = os.environ.get("FILE", "jobs.db")
# --8<-- [start:limits]
MAX_QUEUE = int(os.environ.get("MAX_QUEUE", 1000))  # waiting jobs
MAX_JOBS_PER_OWNER = int(os.environ.get("MAX_JOBS_PER_OWNER", 100))
RESULT_TTL = float(os.environ.get("RESULT_TTL", 3600))  # seconds
# --8<-- [end:limits]
MAX_PRIORITY = 9

# A real server looks these up, and stores only their hashes.
OWNERS = {"alice-key": "alice", "bob-key": "bob"}


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


bp = Blueprint("job_queue", strict_slashes=True)
thread = ThreadPoolExecutor(1)  # for all that blocks


async def in_thread(function, *arguments):
    """Call function(store, …) without blocking the event loop."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(
        thread, function, bp.ctx.store, *arguments
    )


# --8<-- [start:parse_job]
def parse_job(body):
    """Return a job's parameters; reject any other body with 400."""
    body = body if isinstance(body, dict) else {}
    seconds, priority = body.get("seconds"), body.get("priority", 0)
    crash = body.get("crash", False)
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
        raise BadRequest(f'"priority" is 0 to {MAX_PRIORITY}')
    if type(crash) is not bool:
        raise BadRequest('"crash" is true or false')
    return {"seconds": seconds, "crash": crash, "priority": priority}
# --8<-- [end:parse_job]


def parse_key(key):
    """Return an Idempotency-Key, or None; reject others with 400."""
    # Sanic decodes other bytes to what SQLite cannot store.
    if key is not None and not re.fullmatch("[ -~]{1,255}", key):
        raise BadRequest("Idempotency-Key is 1 to 255 ASCII characters")
    return key


@bp.on_request
async def authenticate(request):
    """Identify the client. A token names a job and grants no access."""
    request.ctx.owner = OWNERS.get(request.token)
    if request.ctx.owner is None:
        raise Unauthorized("send a valid API key", scheme="Bearer")


@bp.exception(Error)
async def report_store_error(request, error):
    """Respond with 503: a full disk, for example, can be repaired."""
    print(f"cannot use {FILE}: {error}", flush=True)
    message = {"status": 503, "message": "the queue cannot be used"}
    return json(message, 503, {"Retry-After": "10"})


# --8<-- [start:respond]
def respond(store, job, status=200):
    """Return the response for a job, or 404 for an unknown one."""
    if job is None:
        raise NotFound("unknown token")
    state = {"token": job["token"], "status": job["status"]}
    headers = {}
    if job["status"] in {"waiting", "running"}:
        position, seconds = 0, 0
        if job["status"] == "waiting":
            position = store.position(job)
            seconds = store.seconds_for(position)
        state |= {"status": "pending", "position": position}
        headers = {"Retry-After": retry_after(seconds)}
    elif job["status"] == "done":
        state["result"] = job["result"]
    elif job["status"] == "failed":
        state["error"] = job["error"]
    return json(state, status, headers)


def retry_after(seconds):
    """Return a value for Retry-After: one second to ten minutes."""
    return str(1 + min(600, int(seconds)))
# --8<-- [end:respond]


# --8<-- [start:create_job]
@bp.post("/jobs")
async def create_job(request):
    """Queue a job and return its token at once, or reject it."""
    job = parse_job(request.json)
    key = parse_key(request.headers.get("Idempotency-Key"))
    response = await in_thread(submit, request.ctx.owner, key, job)
    return response


def submit(store, owner, key, job):
    """Add a job to the queue; return the response."""
    try:
        added = store.submit(
            owner, key, job, MAX_QUEUE, MAX_JOBS_PER_OWNER
        )
    except Rejected as rejected:
        message, status = rejected.args
        waiting = store.waiting()
        if status == 503:  # all that wait are to have begun
            seconds = store.seconds_for(sum(waiting.values()))
        else:  # those of the owner
            seconds = store.seconds_for(waiting.get(owner, 0))
        raise SanicException(
            message,
            status_code=status,
            quiet=True,  # no traceback: it is the client's error
            headers={"Retry-After": retry_after(seconds)},
        ) from None
    response = respond(store, added, 202)
    response.headers["Location"] = f"/jobs/{added['token']}"
    return response
# --8<-- [end:create_job]


@bp.get("/jobs/<token>")
async def get_job(request, token):
    """Return a job to its owner: its position, or its result."""
    return await in_thread(find, request.ctx.owner, token)


@bp.delete("/jobs/<token>")
async def cancel_job(request, token):
    """Cancel a job; return what has become of it."""
    return await in_thread(cancel, request.ctx.owner, token)


def find(store, owner, token):
    return respond(store, store.get(owner, token))


def cancel(store, owner, token):
    store.cancel(owner, token)
    return find(store, owner, token)


async def expire(app):
    """Delete each minute the jobs that ended RESULT_TTL ago."""
    while True:
        with suppress(Error):
            await in_thread(JobStore.expire, RESULT_TTL)
        await asyncio.sleep(60)


@bp.before_server_start
async def open_store(app):
    loop = asyncio.get_running_loop()
    bp.ctx.store = await loop.run_in_executor(thread, JobStore, FILE)
    bp.ctx.expiry = asyncio.create_task(expire(app))


@bp.before_server_stop
async def stop_expiry(app):
    """Leave no task behind."""
    bp.ctx.expiry.cancel()
    await asyncio.gather(bp.ctx.expiry, return_exceptions=True)


@bp.after_server_stop
async def close_store(app):
    """Close the file, which the last requests may still have used."""
    await in_thread(JobStore.close)
    thread.shutdown()


if __name__ == "__main__":
    app = Sanic("job_queue", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; default 100 MB
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
