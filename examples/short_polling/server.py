# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server for short polling: it responds to every poll at once.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Source: Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import os
import secrets

from sanic import BadRequest, Blueprint, NotFound, Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))

bp = Blueprint("short_polling", strict_slashes=True)
jobs: dict[str, asyncio.Task] = {}


# --8<-- [start:run_job]
async def run_job(seconds):
    """Stand in for slow work: a report, a video, a model."""
    await asyncio.sleep(seconds)
    return 42
# --8<-- [end:run_job]


# --8<-- [start:parse_job]
def parse_job(body):
    """Return a job's length in seconds; reject any other body (400)."""
    seconds = body.get("seconds") if isinstance(body, dict) else None
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    return seconds
# --8<-- [end:parse_job]


# --8<-- [start:create_job]
@bp.post("/jobs")
async def create_job(request):
    """Start a job and return its token at once."""
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    jobs[token] = asyncio.create_task(run_job(parse_job(request.json)))
    # The path of this request, so that it holds under any prefix.
    fields = {"Location": f"{request.path}/{token}", "Retry-After": "1"}
    return json({"token": token, "status": "pending"}, 202, fields)
# --8<-- [end:create_job]


# --8<-- [start:get_job]
@bp.get("/jobs/<token>")
async def get_job(request, token):
    """Return the status of a job, and its result once it is done."""
    if token not in jobs:
        raise NotFound("unknown token")
    task, job = jobs[token], {"token": token, "status": "pending"}
    if not task.done():
        return json(job, headers={"Retry-After": "1"})
    return json(job | {"status": "done", "result": task.result()})
# --8<-- [end:get_job]


# --8<-- [start:cancel_jobs]
@bp.before_server_stop
async def cancel_jobs(app):
    """Leave no task behind when the server stops."""
    running = [task for task in jobs.values() if task.cancel()]
    await asyncio.gather(*running, return_exceptions=True)
# --8<-- [end:cancel_jobs]


@bp.on_response
async def add_cors_headers(request, response):
    """Let client.html read responses, from wherever it was opened."""
    response.headers["Vary"] = "Origin"
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = "*"


if __name__ == "__main__":
    app = Sanic("short_polling")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
