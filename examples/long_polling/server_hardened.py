# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server that can hold thousands of questions, and let go.

It has a limit, says how many it holds, wakes all who wait for a job
at once, forgets who left, and answers everyone before it stops.

- Run: `uv run server_hardened.py`
- or: `pip install sanic==25.12.1 && python server_hardened.py`
- Try: ask http://127.0.0.1:8000/held how many questions are held
- Source: Prefer and wait, RFC 7240 §2 and §4.3; Retry-After, RFC 9110
  §10.2.3
"""

import asyncio
import os
import random
import re
import secrets

from sanic import BadRequest, Blueprint, NotFound, Sanic, json
from sanic.exceptions import ServiceUnavailable

# --8<-- [start:limits]
MAX_WAIT = int(os.environ.get("MAX_WAIT", 25))  # seconds
MAX_HELD = int(os.environ.get("MAX_HELD", 10_000))  # questions
KEEP = float(os.environ.get("KEEP", 600))  # seconds after the end
# --8<-- [end:limits]

bp = Blueprint("long_polling_hardened")
jobs: dict[str, asyncio.Task] = {}


# --8<-- [start:holds]
class Holds:
    """The questions that are held, by the token they wait for.

    To come, to leave and to be counted costs the same with ten
    thousand of them as with one.
    """

    def __init__(self):
        self.waiters: dict[str, set[asyncio.Future]] = {}
        self.count = 0
        self.closing = False

    async def wait(self, token, seconds):
        """Wait for release(token), and so many seconds at most."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.setdefault(token, set()).add(waiter)
        self.count += 1
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:  # in time, too late, or because the client left
            self.count -= 1
            self.waiters[token].discard(waiter)
            if not self.waiters[token]:
                del self.waiters[token]

    def release(self, token):
        """Wake all who wait for this token."""
        for waiter in self.waiters.get(token, ()):
            if not waiter.done():
                waiter.set_result(None)

    def close(self):
        """Wake everyone; from now on nobody is to be held."""
        self.closing = True
        for token in self.waiters:
            self.release(token)


holds = Holds()
# --8<-- [end:holds]


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
    jobs[token] = job = asyncio.create_task(work(seconds, fail))
    job.add_done_callback(lambda _: ended(token))
    location = request.app.url_for(
        "long_polling_hardened.status", token=token
    )
    return json(
        {"token": token, "status": "pending"},
        status=202,
        headers={"Location": location, "Retry-After": "1"},
    )


# --8<-- [start:ended]
def ended(token):
    """Wake who waits for this job; let go of its result later."""
    holds.release(token)
    asyncio.get_running_loop().call_later(KEEP, jobs.pop, token)
# --8<-- [end:ended]


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


# --8<-- [start:status]
@bp.get("/jobs/<token>")
async def status(request, token):
    """Say how the job stands; with Prefer: wait=N, say it later.

    With as many held as there may be, a question to hold is a 503.
    """
    if token not in jobs:
        raise NotFound("no job has this token")
    job, answer = jobs[token], {"token": token}
    headers = {"Cache-Control": "no-store", "Vary": "Prefer"}
    if wait := preferred_wait(request):
        headers["Preference-Applied"] = f"wait={wait}"
        if not job.done() and not holds.closing:
            if holds.count >= MAX_HELD:
                raise ServiceUnavailable(
                    "too many questions are held here",
                    headers={"Retry-After": "5"},
                )
            await holds.wait(token, wait)
    if not job.done() or job.cancelled():
        answer["status"] = "pending"
        if holds.closing:
            # Come back, to the next server, not all at once; and
            # not on this connection, which is about to go.
            headers["Retry-After"] = str(random.randint(1, 5))
            request.stream.keep_alive = False  # Connection: close
        elif not wait:  # or else: ask again at once
            headers["Retry-After"] = "1"
    elif error := job.exception():  # the job failed, the question not
        answer |= {"status": "failed", "error": str(error)}
    else:
        answer |= {"status": "done", "result": job.result()}
    return json(answer, headers=headers)
# --8<-- [end:status]


# --8<-- [start:held]
@bp.get("/held")
async def held(request):
    """Say how many questions are held, and what runs for them."""
    return json(
        {
            "questions": holds.count,
            "jobs waited for": len(holds.waiters),
            "tasks": len(asyncio.all_tasks()),
        }
    )
# --8<-- [end:held]


# --8<-- [start:stop]
@bp.before_server_stop
async def stop(app):
    """Answer everyone who is held; leave no task behind."""
    holds.close()
    for task in jobs.values():
        task.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)
# --8<-- [end:stop]


if __name__ == "__main__":
    app = Sanic("long_polling_hardened")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.RESPONSE_TIMEOUT = MAX_WAIT + 5
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
