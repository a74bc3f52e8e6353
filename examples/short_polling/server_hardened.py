# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server that paces the clients that poll it.

It suggests when to poll, responds to a conditional request without
a body while nothing has changed, rejects jobs when it has enough,
forgets results, and reports a job that has failed.

- Run: `uv run server_hardened.py`
- or: `pip install sanic==25.12.1 && python server_hardened.py`
- Source: ETag and If-None-Match, RFC 9110 §8.8.3 and §13.1.2;
  Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import math
import os
import secrets
from dataclasses import dataclass, field
from time import monotonic

from sanic import (
    BadRequest,
    Blueprint,
    NotFound,
    Request,
    Sanic,
    empty,
    json,
)
from sanic.exceptions import ServiceUnavailable

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
MAX_JOBS = int(os.environ.get("MAX_JOBS", 1000))
RESULT_TTL = float(os.environ.get("RESULT_TTL", 600))  # seconds


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
    """A job: its expected length, its task and when it started."""

    expected: float  # seconds
    task: asyncio.Task
    started: float = field(default_factory=monotonic)

    # --8<-- [start:remaining]
    def remaining(self):
        """Estimate in how many seconds the job will be done.

        A real server estimates from the length of its queue, from
        the progress so far, or from how long such jobs took before.
        """
        return self.expected - (monotonic() - self.started)
    # --8<-- [end:remaining]


bp = Blueprint("short_polling", strict_slashes=True)
jobs: dict[str, Job] = {}


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


# --8<-- [start:create_job]
@bp.post("/jobs")
async def create_job(request):
    """Start a job and return its token; 503 if there are too many."""
    seconds, fail = parse_job(request.json)
    if len(jobs) >= MAX_JOBS:
        raise ServiceUnavailable(
            "too many jobs", headers={"Retry-After": "5"}
        )
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    task = asyncio.create_task(run_job(seconds, fail))
    jobs[token] = job = Job(seconds, task)
    # A result that no client fetches is forgotten, and makes room.
    loop = asyncio.get_running_loop()
    task.add_done_callback(
        lambda _: loop.call_later(RESULT_TTL, jobs.pop, token)
    )
    # The path of this request, so that it holds under any prefix.
    location = f"{request.path}/{token}"
    headers = {"Location": location, "Retry-After": retry_after(job)}
    return json({"token": token, "status": "pending"}, 202, headers)
# --8<-- [end:create_job]


# --8<-- [start:retry_after]
def retry_after(job):
    """Suggest when to poll next: whole seconds, from 1 to 30."""
    return str(min(30, max(1, math.ceil(job.remaining()))))
# --8<-- [end:retry_after]


# --8<-- [start:get_job]
@bp.get("/jobs/<token>")
async def get_job(request, token):
    """Return the status of a job, or 304 if the client has it."""
    if token not in jobs:
        raise NotFound("unknown token")
    job, headers = jobs[token], {}
    if not job.task.done():
        state = {"status": "pending"}
        headers["Retry-After"] = retry_after(job)
    elif error := job.task.exception():
        # The job failed, this request did not: 200 and not 500.
        state = {"status": "failed", "error": str(error)}
    else:
        state = {"status": "done", "result": job.task.result()}
    # An ETag names a state of this URL: here the status is enough.
    etag = headers["ETag"] = f'"{state["status"]}"'
    # Stored by this client only, and revalidated each time.
    headers["Cache-Control"] = "private, no-cache"
    if matches(etag, request.headers.get("If-None-Match", "")):
        return empty(304, headers)
    return json({"token": token} | state, headers=headers)


def matches(etag, if_none_match):
    """Return whether If-None-Match names this ETag.

    It may be a list, or *; and a proxy that compresses marks an
    ETag as weak (W/), which makes no difference here.
    """
    tags = [tag.strip() for tag in if_none_match.split(",")]
    return "*" in tags or etag in (
        tag.removeprefix("W/") for tag in tags
    )
# --8<-- [end:get_job]


@bp.before_server_stop
async def cancel_jobs(app):
    """Leave no task behind when the server stops."""
    tasks = [job.task for job in jobs.values()]
    running = [task for task in tasks if task.cancel()]
    await asyncio.gather(*running, return_exceptions=True)


if __name__ == "__main__":
    app = Sanic("short_polling", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; default 100 MB
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
