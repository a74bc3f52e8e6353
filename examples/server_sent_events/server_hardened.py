# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""The job server of server.py with what production adds.

It limits streams, events and jobs, reports failed jobs and missed
events, stops a client with 204 when there are no more events, and
spreads the reconnects of its clients when it stops.

- Run: `uv run server_hardened.py`
- or: `pip install sanic==25.12.1 && python server_hardened.py`
- Source: server-sent events, WHATWG HTML §9.2,
  https://html.spec.whatwg.org/multipage/server-sent-events.html;
  503 and Retry-After, RFC 9110 §15.6.4; no-transform, RFC 9111
  §5.2.2.6
"""

import asyncio
import os
import random
import re
import resource
import secrets
from json import dumps

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
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # seconds
RECONNECT_MS = int(os.environ.get("RECONNECT_MS", 1000))
# --8<-- [start:limits]
# A stream takes a file descriptor as long as it lasts. A quarter of
# what this process may open stays free for all other requests.
MAX_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
if MAX_FILES == resource.RLIM_INFINITY:
    MAX_FILES = 10_000
MAX_STREAMS = int(os.environ.get("MAX_STREAMS", MAX_FILES * 3 // 4))
MAX_EVENTS = int(os.environ.get("MAX_EVENTS", 100))  # kept per job
MAX_JOBS = int(os.environ.get("MAX_JOBS", 10_000))
RESULT_TTL = float(os.environ.get("RESULT_TTL", 600))  # s, once done
# --8<-- [end:limits]

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


bp = Blueprint("sse_hardened", strict_slashes=True)


class Job:
    """A job, its task and the last of its events."""

    def __init__(self, seconds, fail):
        # A future for each event, by id: the last has no result yet.
        self.events = {1: asyncio.Future()}
        self.state = {"status": "pending"}
        self.task = asyncio.create_task(run_job(self, seconds, fail))
        # However a job ends, no stream may wait for more.
        self.task.add_done_callback(lambda _: self.next.cancel())

    @property
    def newest(self):
        """The id of the last event that has happened, or 0."""
        return next(reversed(self.events)) - 1

    @property
    def oldest(self):
        """The id of the first event that is kept."""
        return next(iter(self.events))

    @property
    def next(self):
        """The future of the next event, without a result yet."""
        return self.events[self.newest + 1]


jobs: dict[str, Job] = {}


async def run_job(job, seconds, fail):
    """Stand in for slow work that reports its progress."""
    for percent in 0, 33, 67:
        publish(job, "progress", percent)
        await asyncio.sleep(seconds / 3)
    if fail:
        error = "the job was set to fail"
        job.state = {"status": "failed", "error": error}
        publish(job, "failed", error)
    else:
        job.state = {"status": "done", "result": 42}
        publish(job, "done", 42)


# --8<-- [start:publish]
def publish(job, name, data):
    """Publish the next event of a job; drop one that is too old."""
    number = job.newest + 1
    # JSON has no line breaks, so it fits into one data line.
    job.next.set_result(f"event: {name}\ndata: {dumps(data)}")
    job.events[number + 1] = asyncio.Future()
    # Streams read from here, each at its own pace: a slow client has
    # no queue of its own that grows.
    job.events.pop(number - MAX_EVENTS, None)
# --8<-- [end:publish]


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
    """Start a job; return its token and the path of its events."""
    seconds, fail = parse_job(request.json)
    if len(jobs) >= MAX_JOBS:
        reject(request, "too many jobs")
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    jobs[token] = job = Job(seconds, fail)
    # The client may never return for the result.
    expire = asyncio.get_running_loop().call_later
    job.task.add_done_callback(
        lambda _: expire(RESULT_TTL, jobs.pop, token)
    )
    # The path of this request, so that it holds under any prefix.
    headers = {"Location": f"{request.path}/{token}/events"}
    return json({"token": token, "status": "pending"}, 202, headers)


# --8<-- [start:reject]
def reject(request, reason):
    """Reject a request with 503 and Retry-After."""
    request.stream.keep_alive = False  # its descriptor is needed
    # At random, so that rejected clients do not return together.
    headers = {"Retry-After": str(random.randint(5, 15))}
    raise ServiceUnavailable(reason, headers=headers)
# --8<-- [end:reject]


def find_job(token):
    """Return a job; respond with 404 to an unknown token."""
    if token not in jobs:
        raise NotFound("unknown token")
    return jobs[token]


@bp.get("/jobs/<token>")
async def get_job(request, token):
    """Return the status of a job, for clients that want no stream."""
    return json({"token": token} | find_job(token).state)


def parse_last_event_id(request, job):
    """Return the id of the last event that a client has, or 0."""
    last = request.headers.get("Last-Event-ID") or "0"
    # int() reads digits of all scripts, and fails for very many.
    if not re.fullmatch("[0-9]{1,9}", last) or int(last) > job.newest:
        raise BadRequest("no event of this job has this Last-Event-ID")
    return int(last)


# --8<-- [start:stream_events]
streams = set()  # the requests whose response is open


@bp.get("/jobs/<token>/events")
async def stream_events(request, token):
    """Stream a job's events, beginning after the Last-Event-ID."""
    job = find_job(token)
    last = parse_last_event_id(request, job)
    if job.task.done() and last == job.newest:
        return empty(204)  # no more events: an EventSource stops here
    if len(streams) >= MAX_STREAMS:
        reject(request, "too many streams")
    streams.add(request)
    try:
        await send_events(request, job, last)
    finally:  # also on a disconnect, which cancels the handler
        streams.discard(request)
# --8<-- [end:stream_events]


# --8<-- [start:send_events]
async def send_events(request, job, last):
    """Send each event after the last one that the client has."""
    stream = await request.respond(
        content_type="text/event-stream",
        headers={
            # No cache may respond instead, and no proxy compress:
            # it would wait until it has enough.
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",  # nginx: pass it on at once
        },
    )
    await stream.send(f"retry: {RECONNECT_MS}\n\n")
    while True:
        if last < job.oldest - 1:
            missed = job.oldest - 1 - last
            last += missed
            await stream.send(
                f"id: {last}\nevent: missed\ndata: {missed}\n\n"
            )
        event = job.events[last + 1]
        if not (await asyncio.wait([event], timeout=HEARTBEAT))[0]:
            await stream.send(": heartbeat\n\n")
        elif event.cancelled():
            break
        else:
            last += 1
            await stream.send(f"id: {last}\n{event.result()}\n\n")
    if job.task.cancelled():  # the server stops
        # Not all clients may reconnect at the same moment.
        delay = random.randint(RECONNECT_MS, 5 * RECONNECT_MS)
        await stream.send(f"retry: {delay}\n\n")
# --8<-- [end:send_events]


@bp.before_server_stop
async def cancel_jobs(app):
    """Stop all jobs and end their streams."""
    running = [job.task for job in jobs.values() if job.task.cancel()]
    await asyncio.gather(*running, return_exceptions=True)


# --8<-- [start:cors]
@bp.options("/jobs", name="preflight_job")
@bp.options("/jobs/<token>/events", name="preflight_events")
async def preflight(request, token=None):
    """Let a page of any origin send the headers that a client needs.

    An EventSource may send Last-Event-ID by itself, fetch may not.
    """
    allowed = "Content-Type, Last-Event-ID"
    return empty(headers={"Access-Control-Allow-Headers": allowed})


@bp.on_response
async def add_cors_headers(request, response):
    """Let a page of any origin read responses and their headers."""
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = (
        "Location, Retry-After"
    )
# --8<-- [end:cors]


if __name__ == "__main__":
    app = Sanic("sse_hardened", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
