# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: it ends the held requests after the server has stopped.

Sanic waits for them first (GRACEFUL_SHUTDOWN_TIMEOUT, 15 s), and they
wait for the job; then it closes their connections.

- Run: `uv run wrong_shutdown.py`
- or: `pip install sanic==25.12.1 && python wrong_shutdown.py`
- Try: `SANIC_GRACEFUL_SHUTDOWN_TIMEOUT=2 uv run wrong_shutdown.py`,
  `curl -d '{"seconds": 60}' 127.0.0.1:8000/jobs`, with its token
  `curl -H 'Prefer: wait=20' 127.0.0.1:8000/jobs/TOKEN & sleep 1`,
  and then `pkill -f wrong_shutdown.py`
- Source: server.py, which is right
"""

import asyncio
import os
import re
import secrets

from sanic import BadRequest, Blueprint, NotFound, Sanic, json

PORT = int(os.environ.get("PORT", 8000))
# Seconds; less than any timeout between client and handler. Sanic's
# RESPONSE_TIMEOUT is 60.
MAX_WAIT = int(os.environ.get("MAX_WAIT", 25))

bp = Blueprint("long_polling", strict_slashes=True)
jobs: dict[str, asyncio.Task] = {}


async def run_job(seconds):
    """Stand in for slow work: a report, a video, a model."""
    await asyncio.sleep(seconds)
    return 42


def parse_job(body):
    """Return a job's length in seconds; reject any other body (400)."""
    seconds = body.get("seconds") if isinstance(body, dict) else None
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    return seconds


@bp.post("/jobs")
async def create_job(request):
    """Start a job and return its token at once."""
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    jobs[token] = asyncio.create_task(run_job(parse_job(request.json)))
    # The path of this request, so that it holds under any prefix.
    fields = {"Location": f"{request.path}/{token}", "Retry-After": "1"}
    return json({"token": token, "status": "pending"}, 202, fields)


@bp.get("/jobs/<token>")
async def get_job(request, token):
    """Return a job; with Prefer: wait=N, hold until it has ended."""
    if token not in jobs:
        raise NotFound("unknown token")
    task, job = jobs[token], {"token": token, "status": "pending"}
    headers = {"Cache-Control": "no-store"}
    if n := re.fullmatch("wait=([0-9]{1,4})", request.headers.prefer):
        wait = min(int(n[1]), MAX_WAIT)
        # Unlike wait_for, wait does not cancel the task when the time
        # is over or when this client disconnects.
        await asyncio.wait([task], timeout=wait)
        headers["Preference-Applied"] = f"wait={wait}"
    if task.done() and not task.cancelled():
        job |= {"status": "done", "result": task.result()}
    return json(job, headers=headers)


@bp.after_server_stop
async def cancel_jobs(app):
    """Cancel all jobs, which ends every held request."""
    running = [task for task in jobs.values() if task.cancel()]
    await asyncio.gather(*running, return_exceptions=True)


if __name__ == "__main__":
    app = Sanic("long_polling")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.blueprint(bp)
    app.run(port=PORT, single_process=True)
