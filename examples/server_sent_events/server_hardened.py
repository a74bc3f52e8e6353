# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server that tells, within limits.

Holds no more streams than it can, keeps no more events than it
must, counts right when clients leave, and says goodbye.

- Run: `uv run server_hardened.py`
- or: `pip install sanic==25.12.1 && python server_hardened.py`
- Source: server-sent events, WHATWG HTML §9.2,
  https://html.spec.whatwg.org/multipage/server-sent-events.html;
  503 and Retry-After, RFC 9110 §15.6.4
"""

import asyncio
import os
import random
import re
import secrets
from collections import deque
from json import dumps

from sanic import BadRequest, Blueprint, NotFound, Sanic, empty, json
from sanic.exceptions import ServiceUnavailable

STEP = float(os.environ.get("STEP", 1))  # seconds between reports
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # seconds
# --8<-- [start:limits]
MAX_STREAMS = int(os.environ.get("MAX_STREAMS", 1000))
REPLAY = int(os.environ.get("REPLAY", 100))  # events kept for a job
KEEP = float(os.environ.get("KEEP", 600))  # seconds after its end
# --8<-- [end:limits]

bp = Blueprint("server_sent_events_hardened")


# --8<-- [start:log]
class Job:
    """Work under way, and the last that it has told."""

    def __init__(self, seconds, fail):
        self.told = 0  # events so far; the id of the last one
        self.log = deque(maxlen=REPLAY)  # the oldest fall out
        self.news = asyncio.Event()  # set, and replaced, by each event
        self.task = asyncio.create_task(self.work(seconds, fail))
        self.task.add_done_callback(self.wake)

    def after(self, seen):
        """Return the next event after that id, as (id, event, data).

        If some are no longer kept, that is the next one: the client
        is told how many it missed, and goes on with the oldest.
        """
        oldest = self.told - len(self.log) + 1
        if seen + 1 < oldest:
            missed = {"events": oldest - seen - 1}
            return oldest - 1, "missed", missed
        return seen + 1, *self.log[seen + 1 - oldest]
    # --8<-- [end:log]

    async def work(self, seconds, fail):
        """Stand for whatever is slow: a report, a video, a model."""
        passed = 0
        while seconds - passed > STEP:
            await asyncio.sleep(STEP)
            passed += STEP
            self.tell("progress", percent=round(100 * passed / seconds))
        await asyncio.sleep(seconds - passed)
        if fail:
            self.tell("failed", error="the job was told to fail")
        else:
            self.tell("done", result=42)

    def tell(self, event, **data):
        self.told += 1
        self.log.append((event, data))
        self.wake()

    def wake(self, _=None):
        self.news.set()
        self.news = asyncio.Event()


jobs: dict[str, Job] = {}


@bp.post("/jobs")
async def submit(request):
    """Start a job and answer 202 with its token, at once."""
    seconds, fail = read(request.json)
    token = secrets.token_urlsafe(16)
    jobs[token] = job = Job(seconds, fail)
    # What nobody comes back for is let go.
    job.task.add_done_callback(
        lambda _: asyncio.get_running_loop().call_later(
            KEEP, jobs.pop, token
        )
    )
    location = request.app.url_for(
        "server_sent_events_hardened.status", token=token
    )
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


@bp.get("/jobs/<token>")
async def status(request, token):
    """Say how the job stands now: pending, done, failed; or 404."""
    match [*find(token).log]:
        case [*_, (("done" | "failed") as event, data)]:
            return json({"token": token, "status": event} | data)
    return json(
        {"token": token, "status": "pending"},
        headers={"Retry-After": "1"},
    )


def find(token):
    """Return the job with this token; there is none: 404."""
    if token not in jobs:
        raise NotFound("no job has this token")
    return jobs[token]


def last_event_id(request, job):
    """Return the id of the last event that this client has, or 0."""
    last = request.headers.get("Last-Event-ID", "0")
    if not re.fullmatch("[0-9]{1,9}", last) or int(last) > job.told:
        raise BadRequest("no event of this job has this Last-Event-ID")
    return int(last)


# --8<-- [start:events]
streams: set[asyncio.Task] = set()  # those who listen now


@bp.get("/jobs/<token>/events")
async def events(request, token):
    """Tell what happens to a job, if there is room for one more."""
    job = find(token)
    seen = last_event_id(request, job)
    if job.task.done() and seen == job.told:
        return empty(204)  # all told: an EventSource stops here
    if len(streams) >= MAX_STREAMS:
        raise ServiceUnavailable(
            "too many are listening", headers={"Retry-After": "5"}
        )
    me = asyncio.current_task()
    streams.add(me)
    try:
        await tell(request, job, seen)
    finally:  # also when the client has left: that cancels us
        streams.discard(me)
# --8<-- [end:events]


# --8<-- [start:tell]
async def tell(request, job, seen):
    """Send all events after that id, and then each as it happens."""
    stream = await request.respond(
        content_type="text/event-stream",
        headers={
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",  # nginx: pass it on at once
        },
    )
    await stream.send("retry: 1000\n\n")
    while True:
        if seen < job.told:
            seen, event, data = job.after(seen)
            await stream.send(
                f"id: {seen}\nevent: {event}\ndata: {dumps(data)}\n\n"
            )
        elif job.task.cancelled():  # the server stops
            # Come back, and please not all at the same moment.
            pause = random.randint(1000, 5000)  # milliseconds
            await stream.send(f"retry: {pause}\n\n")
            return
        elif job.task.done():
            return
        else:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await job.news.wait()
            except TimeoutError:
                await stream.send(": still here\n\n")
# --8<-- [end:tell]


# --8<-- [start:stop]
@bp.before_server_stop
async def stop(app):
    """End the jobs, and with them the streams, each with a goodbye."""
    tasks = [job.task for job in jobs.values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
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
    app = Sanic("server_sent_events_hardened")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
