# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server that holds thousands of polls and stops cleanly.

It limits and counts held requests, forgets clients that disconnect,
rejects jobs when it has enough, forgets results, reports a job that
has failed, and responds to every held request before it stops.

- Run: `uv run server_hardened.py`
- or: `pip install sanic==25.12.1 && python server_hardened.py`
- Try: `curl http://127.0.0.1:8000/held` counts the held requests
- Source: Prefer and wait, RFC 7240 §2 and §4.3; Retry-After, RFC 9110
  §10.2.3; CORS, https://fetch.spec.whatwg.org/#http-cors-protocol
"""

import asyncio
import os
import random
import re
import resource
import secrets

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
# --8<-- [start:limits]
MAX_WAIT = int(os.environ.get("MAX_WAIT", 25))  # seconds
# Descriptors that held requests cannot take: those of other requests
# and of clients that are about to be rejected.
SPARE_FILES = 150
MAX_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
if MAX_FILES == resource.RLIM_INFINITY:
    MAX_FILES = 10_000
MAX_HELD = int(os.environ.get("MAX_HELD", MAX_FILES - SPARE_FILES))
MAX_JOBS = int(os.environ.get("MAX_JOBS", 1000))
RESULT_TTL = float(os.environ.get("RESULT_TTL", 600))  # seconds
# --8<-- [end:limits]


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


# --8<-- [start:holds]
class Holds:
    """The requests that are held, by the token they wait for.

    To add, remove or count one costs the same with ten thousand of
    them as with one.
    """

    def __init__(self):
        self.waiters: dict[str, set[asyncio.Future]] = {}
        self.count = 0
        self.draining = False

    async def wait(self, token, seconds):
        """Hold until release(token), for so many seconds at most."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.setdefault(token, set()).add(waiter)
        self.count += 1
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:  # also on a disconnect, which cancels the handler
            self.count -= 1
            self.waiters[token].discard(waiter)
            if not self.waiters[token]:
                del self.waiters[token]

    def release(self, token):
        """End the hold of all requests that wait for this token."""
        for waiter in self.waiters.get(token, ()):
            if not waiter.done():
                waiter.set_result(None)

    def drain(self):
        """End all holds, and hold no request from now on."""
        self.draining = True
        for token in self.waiters:
            self.release(token)


holds = Holds()
# --8<-- [end:holds]


bp = Blueprint("long_polling", strict_slashes=True)
jobs: dict[str, asyncio.Task] = {}


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


@bp.post("/jobs")
async def create_job(request):
    """Start a job and return its token; 503 if there are too many."""
    seconds, fail = parse_job(request.json)
    if len(jobs) >= MAX_JOBS:
        raise ServiceUnavailable(
            "too many jobs", headers={"Retry-After": "5"}
        )
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    jobs[token] = task = asyncio.create_task(run_job(seconds, fail))
    task.add_done_callback(lambda _: end_job(token))
    # The path of this request, so that it holds under any prefix.
    fields = {"Location": f"{request.path}/{token}", "Retry-After": "1"}
    return json({"token": token, "status": "pending"}, 202, fields)


# --8<-- [start:end_job]
def end_job(token):
    """End the holds of all requests for a job; forget it later."""
    holds.release(token)
    asyncio.get_running_loop().call_later(RESULT_TTL, jobs.pop, token)
# --8<-- [end:end_job]


# --8<-- [start:preferred_wait]
WAIT = re.compile(r'(?i)\s*wait\s*=\s*("?)([0-9]+)\1\s*(;.*)?')


def preferred_wait(request):
    """Return the N of `Prefer: wait=N`, at most MAX_WAIT; or 0.

    The first of several counts, and a preference that is invalid or
    unknown is ignored (RFC 7240 §2).
    """
    for preference in request.headers.prefer.split(","):
        if match := WAIT.fullmatch(preference):
            # float() accepts any number of digits, int() does not.
            return int(min(MAX_WAIT, float(match[2])))
    return 0
# --8<-- [end:preferred_wait]


# --8<-- [start:get_job]
@bp.get("/jobs/<token>")
async def get_job(request, token):
    """Return a job; with Prefer: wait=N, hold until it has ended.

    With too many held already, a request to be held is a 503.
    """
    if token not in jobs:
        raise NotFound("unknown token")
    task, job = jobs[token], {"token": token, "status": "pending"}
    headers = {"Cache-Control": "no-store", "Vary": "Prefer"}
    wait = preferred_wait(request)
    if wait and not task.done() and not holds.draining:
        if holds.count >= MAX_HELD:
            request.stream.keep_alive = False  # free its descriptor
            raise ServiceUnavailable(
                "too many held requests", headers={"Retry-After": "5"}
            )
        await holds.wait(token, wait)
    if not task.done() or task.cancelled():
        if holds.draining:
            # Reconnect to the next server, not all at once; and not
            # on this connection, which is about to close.
            headers["Retry-After"] = str(random.randint(1, 5))
            request.stream.keep_alive = False  # Connection: close
        elif not wait:  # after a hold: poll again at once
            headers["Retry-After"] = "1"
    elif error := task.exception():
        # The job failed, this request did not: 200 and not 500.
        job |= {"status": "failed", "error": str(error)}
    else:
        job |= {"status": "done", "result": task.result()}
    if wait and "Retry-After" not in headers:
        headers["Preference-Applied"] = f"wait={wait}"
    return json(job, headers=headers)
# --8<-- [end:get_job]


# --8<-- [start:count_held]
@bp.get("/held")
async def count_held(request):
    """Return how many requests are held, and for how many jobs."""
    return json({"requests": holds.count, "jobs": len(holds.waiters)})
# --8<-- [end:count_held]


# --8<-- [start:cancel_jobs]
@bp.before_server_stop
async def cancel_jobs(app):
    """Respond to all held requests; leave no task behind."""
    holds.drain()
    running = [task for task in jobs.values() if task.cancel()]
    await asyncio.gather(*running, return_exceptions=True)
# --8<-- [end:cancel_jobs]


# --8<-- [start:cors]
@bp.options("/jobs/<token>")
async def preflight(request, token):
    """Let a page of any origin send Prefer (a CORS preflight)."""
    return empty(headers={"Access-Control-Allow-Headers": "Prefer"})


@bp.on_response
async def add_cors_headers(request, response):
    """Let client.html read responses, from wherever it was opened."""
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = "*"
# --8<-- [end:cors]


if __name__ == "__main__":
    app = Sanic("long_polling", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; default 100 MB
    # --8<-- [start:response_timeout]
    # Sanic must not end a hold before the handler does.
    app.config.RESPONSE_TIMEOUT = MAX_WAIT + 5
    # --8<-- [end:response_timeout]
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
