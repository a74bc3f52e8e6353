# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: says nothing while nothing happens.

This is server.py without its heartbeat: a quiet job outlasts timers.

- Run: `uv run wrong_silent.py`
- or: `pip install sanic==25.12.1 && python wrong_silent.py`
- Source: server-sent events, WHATWG HTML §9.2,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import os
import re
import secrets
from json import dumps

from sanic import BadRequest, Blueprint, NotFound, Sanic, empty, json

STEP = float(os.environ.get("STEP", 1))  # seconds between reports
RETRY = int(os.environ.get("RETRY", 1000))  # milliseconds

bp = Blueprint("server_sent_events")


# --8<-- [start:job]
class Job:
    """Work under way, and all that it has told so far."""

    def __init__(self, seconds, fail):
        self.log = []  # (event, data); the first has the id 1
        self.news = asyncio.Event()  # set, and replaced, by each event
        self.task = asyncio.create_task(self.work(seconds, fail))
        self.task.add_done_callback(self.wake)

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
        self.log.append((event, data))
        self.wake()

    def wake(self, _=None):
        self.news.set()
        self.news = asyncio.Event()
# --8<-- [end:job]


jobs: dict[str, Job] = {}


@bp.post("/jobs")
async def submit(request):
    """Start a job and answer 202 with its token, at once."""
    seconds, fail = read(request.json)
    token = secrets.token_urlsafe(16)
    jobs[token] = Job(seconds, fail)
    location = request.app.url_for(
        "server_sent_events.status", token=token
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
    match find(token).log:
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


# --8<-- [start:events]
@bp.get("/jobs/<token>/events")
async def events(request, token):
    """Tell all that happens to a job, in one answer, as it happens."""
    job = find(token)
    seen = last_event_id(request, job)
    if job.task.done() and seen == len(job.log):
        return empty(204)  # all told: an EventSource stops here
    stream = await request.respond(
        content_type="text/event-stream",
        headers={
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",  # nginx: pass it on at once
        },
    )
    await stream.send(f"retry: {RETRY}\n\n")
    while True:
        if seen < len(job.log):
            event, data = job.log[seen]
            seen += 1
            # JSON puts no line break into the data.
            await stream.send(
                f"id: {seen}\nevent: {event}\ndata: {dumps(data)}\n\n"
            )
        elif job.task.done():
            return  # this ends the answer
        else:
            await job.news.wait()  # however long it takes
# --8<-- [end:events]


# --8<-- [start:resume]
def last_event_id(request, job):
    """Return the id of the last event that this client has, or 0."""
    last = request.headers.get("Last-Event-ID", "0")
    if not re.fullmatch("[0-9]{1,9}", last) or int(last) > len(job.log):
        raise BadRequest("no event of this job has this Last-Event-ID")
    return int(last)
# --8<-- [end:resume]


@bp.before_server_stop
async def stop(app):
    """Leave no task behind: ended jobs end their streams."""
    tasks = [job.task for job in jobs.values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@bp.on_response
async def let_any_page_read(request, response):
    """Let client.html read the answers, wherever it was opened."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = (
            "Location, Retry-After"
        )


if __name__ == "__main__":
    app = Sanic("server_sent_events")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
