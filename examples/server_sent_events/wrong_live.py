# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: sends only what happens while the client is connected.

This is server.py without ids, so a client cannot resume.

- Run: `uv run wrong_live.py`
- or: `pip install sanic==25.12.1 && python wrong_live.py`
- Try: `curl -d '{"seconds": 3}' 127.0.0.1:8000/jobs`, with its token
  `curl --max-time 1.5 127.0.0.1:8000/jobs/TOKEN/events`, `sleep 2`, and
  `curl -H 'Last-Event-ID: 2' 127.0.0.1:8000/jobs/TOKEN/events`
- Source: server-sent events, WHATWG HTML §9.2,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import os
import secrets

from sanic import BadRequest, Blueprint, NotFound, Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # seconds

bp = Blueprint("sse", strict_slashes=True)
jobs: dict[str, tuple[list[asyncio.Future], asyncio.Task]] = {}


async def run_job(events, seconds):
    """Stand in for slow work that reports its progress."""
    for percent in 0, 33, 67:
        publish(events, f"event: progress\ndata: {percent}")
        await asyncio.sleep(seconds / 3)
    publish(events, "event: done\ndata: 42")
    events[-1].cancel()  # there are no more


def publish(events, event):
    """Publish the next event of a job.

    `events` holds a future for each event, so that a stream can wait
    for any of them: the last has no result yet.
    """
    events[-1].set_result(event)
    events.append(asyncio.Future())


def parse_job(body):
    """Return a job's length in seconds; reject any other body (400)."""
    seconds = body.get("seconds") if isinstance(body, dict) else None
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    return seconds


@bp.post("/jobs")
async def create_job(request):
    """Start a job; return its token and the path of its events."""
    seconds = parse_job(request.json)
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    events = [asyncio.Future()]
    jobs[token] = events, asyncio.create_task(run_job(events, seconds))
    # The path of this request, so that it holds under any prefix.
    headers = {"Location": f"{request.path}/{token}/events"}
    return json({"token": token, "status": "pending"}, 202, headers)


@bp.get("/jobs/<token>/events", ignore_body=False)
async def stream_events(request, token):
    """Stream a job's events, beginning after the Last-Event-ID."""
    if token not in jobs:
        raise NotFound("unknown token")
    events, _ = jobs[token]
    last = len(events) - 1  # from now on
    stream = await request.respond(content_type="text/event-stream")
    await stream.send("retry: 1000\n\n")  # reconnect after 1,000 ms
    for number, event in enumerate(events, 1):  # it may grow
        while not (await asyncio.wait([event], timeout=HEARTBEAT))[0]:
            await stream.send(": heartbeat\n\n")
        if number > last and not event.cancelled():
            await stream.send(f"{event.result()}\n\n")


@bp.before_server_stop
async def cancel_jobs(app):
    """Stop all jobs and end their streams."""
    for events, task in jobs.values():
        task.cancel()
        events[-1].cancel()


@bp.on_response
async def add_cors_headers(request, response):
    """Let a page of any origin read responses and their Location."""
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = "Location"


if __name__ == "__main__":
    app = Sanic("sse")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
