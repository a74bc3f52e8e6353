# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""The token server with what production adds.

Jobs have owners; a request sent twice starts one job; a job nobody
comes back for expires; one owner cannot take all the room.

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

from sanic import BadRequest, Blueprint, NotFound, Sanic, json
from sanic.exceptions import SanicException, Unauthorized

# --8<-- [start:limits]
# How long an ended job's result is kept, and then its bare name.
KEEP = float(os.environ.get("KEEP", 600))  # seconds
REMEMBER = float(os.environ.get("REMEMBER", 3600))  # seconds
JOBS_PER_OWNER = int(os.environ.get("JOBS_PER_OWNER", 100))
# --8<-- [end:limits]

# A real server looks these up, and stores only their hashes.
OWNERS = {"alice-key": "alice", "bob-key": "bob"}


@dataclass
class Job:
    """One job: whose it is, what was asked, and how it stands."""

    token: str
    owner: str
    request: tuple
    answer: dict | None  # None: expired
    life: asyncio.Task | None = None


bp = Blueprint("token_hardened")
jobs: dict[str, Job] = {}
keys: dict[tuple[str, str], Job] = {}  # (owner, key) -> job
held: Counter[str] = Counter()  # owner -> jobs that take up room


async def work(seconds, fail):
    """Stand for whatever is slow: a report, a video, a model."""
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError("the job was told to fail")
    return 42


# --8<-- [start:owner]
@bp.on_request
async def authenticate(request):
    """Find out who asks. The token names a job, and no person."""
    request.ctx.owner = OWNERS.get(request.token)
    if request.ctx.owner is None:
        raise Unauthorized("send a key you were given", scheme="Bearer")
# --8<-- [end:owner]


# --8<-- [start:submit]
@bp.post("/jobs")
async def submit(request):
    """Start a job, or find the one this request started before."""
    asked, owner = read(request.json), request.ctx.owner
    key = (owner, request.headers.get("Idempotency-Key"))
    if key in keys:
        job = keys[key]
        if job.request != asked:
            raise SanicException(
                "this Idempotency-Key came with another request",
                status_code=422,
                quiet=True,  # no traceback in the log: not our fault
            )
    elif held[owner] >= JOBS_PER_OWNER:
        raise SanicException(
            f"you have {held[owner]} jobs here: let some expire",
            status_code=429,
            quiet=True,
            headers={"Retry-After": f"{KEEP:.0f}"},
        )
    else:
        token = secrets.token_urlsafe(16)
        job = Job(token, owner, asked, {"status": "pending"})
        job.life = asyncio.create_task(live(job, key))
        jobs[token] = job
        held[owner] += 1
        if key[1] is not None:
            keys[key] = job
    return json(
        {"token": job.token, "status": "pending"},
        status=202,
        headers={
            "Location": request.app.url_for(
                "token_hardened.status", token=job.token
            ),
            "Retry-After": "1",
        },
    )
# --8<-- [end:submit]


# --8<-- [start:life]
async def live(job, key):
    """Take a job from its start to its last trace."""
    try:
        result = await work(*job.request)
        job.answer = {"status": "done", "result": result}
    except Exception as error:
        job.answer = {"status": "failed", "error": str(error)}
    await asyncio.sleep(KEEP)  # for a client that may never come
    job.answer = None  # the result goes; the name stays: 410
    keys.pop(key, None)
    held[job.owner] -= 1
    await asyncio.sleep(REMEMBER)
    del jobs[job.token]  # from now on: 404
# --8<-- [end:life]


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
    """Say what became of a job, to its owner alone."""
    job = jobs.get(token)
    # Someone else's job is no job: 403 would say that it exists.
    if job is None or job.owner != request.ctx.owner:
        raise NotFound("you have no job with this token")
    if job.answer is None:
        raise SanicException(
            "the result of this job has expired: submit it again",
            status_code=410,
            quiet=True,
        )
    pending = job.answer["status"] == "pending"
    return json(
        {"token": token} | job.answer,
        headers={"Retry-After": "1"} if pending else None,
    )
# --8<-- [end:status]


@bp.before_server_stop
async def stop(app):
    """Leave no task behind when the server stops."""
    lives = [job.life for job in jobs.values()]
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)


if __name__ == "__main__":
    app = Sanic("token_hardened")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
