# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server that steers those who poll it.

It says when to ask again, answers "nothing new" without a body, and
refuses politely when it has enough to do.

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

from sanic import BadRequest, Blueprint, NotFound, Sanic, empty, json
from sanic.exceptions import ServiceUnavailable

MAX_JOBS = int(os.environ.get("MAX_JOBS", 1000))
KEEP = float(os.environ.get("KEEP", 600))  # seconds after the end

bp = Blueprint("short_polling_hardened")


@dataclass
class Job:
    """A job: how long it should take, since when, and its task."""

    expected: float  # seconds
    task: asyncio.Task
    started: float = field(default_factory=monotonic)

    # --8<-- [start:remaining]
    def remaining(self):
        """Return in how many seconds the job should be done.

        A real server estimates: from the length of its queue, from
        the progress so far, from how long such jobs took before.
        """
        return self.expected - (monotonic() - self.started)
    # --8<-- [end:remaining]


jobs: dict[str, Job] = {}


async def work(seconds, fail):
    """Stand for whatever is slow: a report, a video, a model."""
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError("the job was told to fail")
    return 42


# --8<-- [start:submit]
@bp.post("/jobs")
async def submit(request):
    """Start a job, unless there are too many: then 503, and when."""
    seconds, fail = read(request.json)
    if len(jobs) >= MAX_JOBS:
        raise ServiceUnavailable(
            "too many jobs", headers={"Retry-After": "5"}
        )
    token = secrets.token_urlsafe(16)
    task = asyncio.create_task(work(seconds, fail))
    jobs[token] = job = Job(seconds, task)
    # A result nobody fetches is let go, and makes room.
    task.add_done_callback(
        lambda _: asyncio.get_running_loop().call_later(
            KEEP, jobs.pop, token
        )
    )
    location = request.app.url_for(
        "short_polling_hardened.status", token=token
    )
    return json(
        {"token": token, "status": "pending"},
        status=202,
        headers={"Location": location, "Retry-After": pace(job)},
    )
# --8<-- [end:submit]


# --8<-- [start:pace]
def pace(job):
    """Return when to ask again: whole seconds, from 1 to 30."""
    return str(min(30, max(1, math.ceil(job.remaining()))))
# --8<-- [end:pace]


def read(body):
    """Return (seconds, fail) from a JSON body; anything else is 400."""
    match body:
        case {"seconds": bool()}:  # in Python, True is an int
            pass
        case {"seconds": int() | float() as seconds, **rest}:
            fail = rest.get("fail", False)
            if 0 <= seconds <= 60 and isinstance(fail, bool):
                return seconds, fail
    raise BadRequest(
        'send {"seconds": 0 to 60}, and "fail": true if it is to fail'
    )


# --8<-- [start:status]
@bp.get("/jobs/<token>")
async def status(request, token):
    """Say how the job stands; 304 if the client knows already."""
    if token not in jobs:
        raise NotFound("no job has this token")
    job, headers = jobs[token], {}
    if not job.task.done():
        answer = {"status": "pending"}
        headers["Retry-After"] = pace(job)
    elif error := job.task.exception():
        answer = {"status": "failed", "error": str(error)}
    else:
        answer = {"status": "done", "result": job.task.result()}
    # An ETag names a state of this URL. Here the status is enough.
    etag = headers["ETag"] = f'"{answer["status"]}"'
    # Kept by this client alone, and asked about each time.
    headers["Cache-Control"] = "private, no-cache"
    if known(etag, request.headers.get("If-None-Match", "")):
        return empty(304, headers)
    return json({"token": token} | answer, headers=headers)


def known(etag, if_none_match):
    """Return whether If-None-Match names this ETag.

    It may be a list, or *; and a proxy that compresses marks an
    ETag as weak (W/), which makes no difference here.
    """
    tags = [tag.strip() for tag in if_none_match.split(",")]
    return "*" in tags or etag in (
        tag.removeprefix("W/") for tag in tags
    )
# --8<-- [end:status]


@bp.before_server_stop
async def stop(app):
    """Leave no task behind when the server stops."""
    tasks = [job.task for job in jobs.values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    app = Sanic("short_polling_hardened")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
