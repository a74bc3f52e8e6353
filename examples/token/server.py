# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A server that answers before it has finished.

It takes a slow job, names it with a token, and answers at once.
Whoever holds the token asks later what became of the job.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Source: 202 Accepted, RFC 9110 §15.3.3
"""

import asyncio
import os
import secrets

from sanic import BadRequest, Blueprint, NotFound, Sanic, json

bp = Blueprint("token")
jobs: dict[str, asyncio.Task] = {}


# --8<-- [start:work]
async def work(seconds, fail):
    """Stand for whatever is slow: a report, a video, a model."""
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError("the job was told to fail")
    return 42
# --8<-- [end:work]


# --8<-- [start:submit]
@bp.post("/jobs")
async def submit(request):
    """Start a job and answer 202 with its token, at once."""
    seconds, fail = read(request.json)
    # Whoever guesses a token reads the answer: 128 random bits.
    token = secrets.token_urlsafe(16)
    jobs[token] = asyncio.create_task(work(seconds, fail))
    return json(
        {"token": token, "status": "pending"},
        status=202,
        headers={
            # url_for, so that the path holds under any prefix.
            "Location": request.app.url_for(
                "token.status", token=token
            ),
            "Retry-After": "1",
        },
    )
# --8<-- [end:submit]


# --8<-- [start:read]
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
# --8<-- [end:read]


# --8<-- [start:status]
@bp.get("/jobs/<token>")
async def status(request, token):
    """Say what became of a job: pending, done or failed; or 404."""
    if token not in jobs:
        raise NotFound("no job has this token")
    task, answer = jobs[token], {"token": token}
    if not task.done():
        answer["status"] = "pending"
        return json(answer, headers={"Retry-After": "1"})
    if error := task.exception():
        # The job failed; this request did not. So: 200, not 500.
        return json(answer | {"status": "failed", "error": str(error)})
    return json(answer | {"status": "done", "result": task.result()})
# --8<-- [end:status]


# --8<-- [start:stop]
@bp.before_server_stop
async def stop(app):
    """Leave no task behind when the server stops."""
    for task in jobs.values():
        task.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)
# --8<-- [end:stop]


@bp.on_response
async def let_any_page_read(request, response):
    """Let client.html read the answers, wherever it was opened."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = (
            "Location, Retry-After"
        )


if __name__ == "__main__":
    app = Sanic("token")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
