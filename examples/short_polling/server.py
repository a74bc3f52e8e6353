# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server to poll: every question is answered at once.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Source: Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import os
import secrets

from sanic import BadRequest, Blueprint, NotFound, Sanic, json

bp = Blueprint("short_polling")
jobs: dict[str, asyncio.Task] = {}


async def work(seconds, fail):
    """Stand for whatever is slow: a report, a video, a model."""
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError("the job was told to fail")
    return 42


# --8<-- [start:submit]
@bp.post("/jobs")
async def submit(request):
    """Start a job and answer 202 with its token, at once."""
    seconds, fail = read(request.json)
    token = secrets.token_urlsafe(16)
    jobs[token] = asyncio.create_task(work(seconds, fail))
    location = request.app.url_for("short_polling.status", token=token)
    return json(
        {"token": token, "status": "pending"},
        status=202,
        headers={"Location": location, "Retry-After": "1"},
    )
# --8<-- [end:submit]


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
    """Say how the job stands now: pending, done, failed; or 404."""
    if token not in jobs:
        raise NotFound("no job has this token")
    job, answer = jobs[token], {"token": token}
    if not job.done():
        answer["status"] = "pending"
        return json(answer, headers={"Retry-After": "1"})
    if error := job.exception():  # the job failed, the question not
        return json(answer | {"status": "failed", "error": str(error)})
    return json(answer | {"status": "done", "result": job.result()})
# --8<-- [end:status]


@bp.before_server_stop
async def stop(app):
    """Leave no task behind when the server stops."""
    for task in jobs.values():
        task.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)


@bp.on_response
async def let_any_page_read(request, response):
    """Let client.html read the answers, wherever it was opened."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = (
            "Location, Retry-After"
        )


if __name__ == "__main__":
    app = Sanic("short_polling")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
