# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""The token server with what production adds.

Jobs belong to an owner, a repeated request starts one job, results
expire, the number of jobs is limited, and a job may fail.

- Run: `uv run server_hardened.py`
- or: `pip install sanic==25.12.1 && python server_hardened.py`
- Try: send "Authorization: Bearer alice-key" (or bob-key)
- Source: 404 to hide a resource, RFC 9110 §15.5.4; 410 Gone, RFC 9110
  §15.5.11; Bearer, RFC 6750 §2.1; 429, RFC 6585 §4
"""

import asyncio
import os
import secrets
from collections import Counter
from dataclasses import dataclass

from sanic import BadRequest, Blueprint, NotFound, Request, Sanic, json
from sanic.exceptions import SanicException, Unauthorized

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
# --8<-- [start:limits]
# How long a result is kept, and then its tombstone (410).
RESULT_TTL = float(os.environ.get("RESULT_TTL", 600))  # seconds
TOMBSTONE_TTL = float(os.environ.get("TOMBSTONE_TTL", 3600))  # seconds
MAX_JOBS_PER_OWNER = int(os.environ.get("MAX_JOBS_PER_OWNER", 100))
# --8<-- [end:limits]

# A real server looks these up, and stores only their hashes.
OWNERS = {"alice-key": "alice", "bob-key": "bob"}
PENDING = {"status": "pending"}


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


@dataclass
class Job:
    """A job: its owner, its parameters, its state (None: expired)."""

    owner: str
    parameters: tuple
    state: dict | None
    task: asyncio.Task | None = None


bp = Blueprint("token", strict_slashes=True)
jobs: dict[str, Job] = {}
tokens: dict[tuple[str, str], str] = {}  # (owner, key) -> token
job_count: Counter[str] = Counter()  # owner -> jobs with a result


async def run_job(seconds, fail):
    """Stand in for slow work: a report, a video, a model."""
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError("the job was set to fail")
    return 42


def parse_job(body):
    """Return (seconds, fail); reject any other body with 400."""
    job = body if isinstance(body, dict) else {}
    seconds, fail = job.get("seconds"), job.get("fail", False)
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    if type(fail) is not bool:
        raise BadRequest('"fail" is true or false')
    return seconds, fail


# --8<-- [start:authenticate]
@bp.on_request
async def authenticate(request):
    """Identify the client. A token names a job and grants no access."""
    request.ctx.owner = OWNERS.get(request.token)
    if request.ctx.owner is None:
        raise Unauthorized("send a valid API key", scheme="Bearer")
# --8<-- [end:authenticate]


# --8<-- [start:create_job]
@bp.post("/jobs")
async def create_job(request):
    """Start a job, or find the one that this request started."""
    parameters, owner = parse_job(request.json), request.ctx.owner
    idempotency_key = request.headers.get("Idempotency-Key")
    key = owner, idempotency_key
    if key in tokens:
        token = tokens[key]
        if jobs[token].parameters != parameters:
            raise SanicException(
                "this Idempotency-Key was used for another request",
                status_code=422,
                quiet=True,  # no traceback: it is the client's error
            )
    elif job_count[owner] >= MAX_JOBS_PER_OWNER:
        raise SanicException(
            f"you have {job_count[owner]} jobs: wait until some expire",
            status_code=429,
            quiet=True,
            headers={"Retry-After": f"{RESULT_TTL:.0f}"},
        )
    else:
        token = secrets.token_urlsafe(16)  # 128 random bits
        jobs[token] = job = Job(owner, parameters, PENDING)
        job.task = asyncio.create_task(run_and_expire(token, key))
        job_count[owner] += 1
        if idempotency_key is not None:
            tokens[key] = token
    # The path of this request, so that it holds under any prefix.
    location = f"{request.path}/{token}"
    headers = {"Location": location, "Retry-After": "1"}
    return json({"token": token, "status": "pending"}, 202, headers)
# --8<-- [end:create_job]


# --8<-- [start:run_and_expire]
async def run_and_expire(token, key):
    """Run a job; forget its result and then its token in due time."""
    job = jobs[token]
    try:
        result = await run_job(*job.parameters)
        job.state = {"status": "done", "result": result}
    except Exception as error:
        # The job failed, the requests for it did not: 200 and not 500.
        job.state = {"status": "failed", "error": str(error)}
    await asyncio.sleep(RESULT_TTL)  # the client may never return
    job.state = None  # the result goes, a tombstone stays: 410
    tokens.pop(key, None)
    job_count[job.owner] -= 1
    await asyncio.sleep(TOMBSTONE_TTL)
    del jobs[token]  # from now on: 404
# --8<-- [end:run_and_expire]


# --8<-- [start:get_job]
@bp.get("/jobs/<token>")
async def get_job(request, token):
    """Return the status of a job to its owner, and its result."""
    job = jobs.get(token)
    # The response for another owner's job must not reveal that the
    # job exists, as 403 would.
    if job is None or job.owner != request.ctx.owner:
        raise NotFound("unknown token")
    if job.state is None:
        raise SanicException(
            "the result has expired: submit the job again",
            status_code=410,
            quiet=True,
        )
    pending = job.state["status"] == "pending"
    headers = {"Retry-After": "1"} if pending else {}
    return json({"token": token} | job.state, headers=headers)
# --8<-- [end:get_job]


@bp.before_server_stop
async def cancel_jobs(app):
    """Leave no task behind when the server stops."""
    running = [job.task for job in jobs.values() if job.task.cancel()]
    await asyncio.gather(*running, return_exceptions=True)


if __name__ == "__main__":
    app = Sanic("token", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; default 100 MB
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
