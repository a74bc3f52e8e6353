# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: sleeps while it holds, and so does everybody.

time.sleep stops the whole event loop: other clients, and the job.

- Run: `uv run wrong_blocking.py`
- or: `pip install sanic==25.12.1 && python wrong_blocking.py`
- Source: server.py, which is right
"""

import asyncio
import os
import re
import secrets
import time

from sanic import BadRequest, Blueprint, NotFound, Sanic, empty, json

# The longest hold, in seconds: below every timer on the path.
MAX_WAIT = int(os.environ.get("MAX_WAIT", 25))

bp = Blueprint("long_polling")
jobs: dict[str, asyncio.Task] = {}


async def work(seconds, fail):
    """Stand for whatever is slow: a report, a video, a model."""
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError("the job was told to fail")
    return 42


@bp.post("/jobs")
async def submit(request):
    """Start a job and answer 202 with its token, at once."""
    seconds, fail = read(request.json)
    token = secrets.token_urlsafe(16)
    jobs[token] = asyncio.create_task(work(seconds, fail))
    location = request.app.url_for("long_polling.status", token=token)
    return json(
        {"token": token, "status": "pending"},
        status=202,
        headers={"Location": location, "Retry-After": "1"},
    )


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


WAIT = re.compile(r"(?i)\s*wait\s*=\s*([0-9]+)\s*(;.*)?")


def preferred_wait(request):
    """Return the N of `Prefer: wait=N`, at most MAX_WAIT; or None.

    What is not understood is ignored, as RFC 7240 §2 wants it.
    """
    for preference in ",".join(
        request.headers.getall("Prefer", [])
    ).split(","):
        if match := WAIT.fullmatch(preference):
            return int(min(MAX_WAIT, float(match[1])))
    return None


@bp.get("/jobs/<token>")
async def status(request, token):
    """Say how the job stands; with Prefer: wait=N, say it later.

    The question is held until the job has ended, and N seconds at
    most. A job that is not known is 404, at once.
    """
    if token not in jobs:
        raise NotFound("no job has this token")
    job, answer = jobs[token], {"token": token}
    headers = {"Cache-Control": "no-store", "Vary": "Prefer"}
    if wait := preferred_wait(request):
        headers["Preference-Applied"] = f"wait={wait}"
        end = time.monotonic() + wait
        while not job.done() and time.monotonic() < end:
            time.sleep(0.1)
    if not job.done() or job.cancelled():
        answer["status"] = "pending"
        if not wait:  # or else: ask again at once
            headers["Retry-After"] = "1"
    elif error := job.exception():  # the job failed, the question not
        answer |= {"status": "failed", "error": str(error)}
    else:
        answer |= {"status": "done", "result": job.result()}
    return json(answer, headers=headers)


@bp.before_server_stop
async def stop(app):
    """Leave no task behind. Whoever is held is answered by that."""
    for task in jobs.values():
        task.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)


@bp.options("/jobs/<token>")
async def may_i(request, token):
    """Let a page from elsewhere send Prefer: its browser asks first."""
    return empty(headers={"Access-Control-Allow-Headers": "Prefer"})


@bp.on_response
async def let_any_page_read(request, response):
    """Let client.html read the answers, wherever it was opened."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = (
            "Location, Preference-Applied, Retry-After"
        )


if __name__ == "__main__":
    app = Sanic("long_polling")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    # Sanic's own timer for an answer must never be the first.
    app.config.RESPONSE_TIMEOUT = MAX_WAIT + 5
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
