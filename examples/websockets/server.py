# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server on one WebSocket connection.

The client sends requests; the server responds to each, and pushes
the result of each job.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Source: the WebSocket protocol, RFC 6455 §1.2
"""

import asyncio
import json
import os
import secrets

from sanic import Blueprint, Sanic, text
from sanic.exceptions import SanicException, WebsocketClosed

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))

bp = Blueprint("websockets")
jobs: dict[str, asyncio.Task] = {}
USAGE = 'send "submit": {"seconds": 0 to 60} or "status": token'


async def run_job(seconds):
    """Stand in for slow work: a report, a video, a model."""
    await asyncio.sleep(seconds)
    return 42


# --8<-- [start:connection]
@bp.websocket("/jobs/socket")
async def handle_connection(request, ws):
    """Respond to each message; push the result of each job."""
    try:
        # When the client disconnects, the group cancels the pushes.
        async with asyncio.TaskGroup() as pushes:
            while True:
                response, token = handle_message(await ws.recv())
                await ws.send(json.dumps(response))
                if token:
                    pushes.create_task(push_result(ws, token))
    except* WebsocketClosed:
        pass  # raised by recv() and send() after a disconnect


async def push_result(ws, token):
    """Send the result of a job when it is done, without a request."""
    await asyncio.wait([jobs[token]])  # unlike await, cancels no job
    await ws.send(json.dumps(get_job(token)))
# --8<-- [end:connection]


# --8<-- [start:handle]
def handle_message(message):
    """Return the response to a message, and the token of a new job."""
    try:
        data = json.loads(message)
    except (ValueError, RecursionError):
        return {"id": None, "error": "send JSON"}, None
    request_id = data.get("id") if isinstance(data, dict) else None
    match data:
        case {"submit": {"seconds": s}} if is_job_length(s):
            token = secrets.token_urlsafe(16)  # not guessable
            jobs[token] = asyncio.create_task(run_job(s))
            return {"id": request_id} | get_job(token), token
        case {"status": str() as token} if token in jobs:
            return {"id": request_id} | get_job(token), None
    return {"id": request_id, "error": USAGE}, None
# --8<-- [end:handle]


def is_job_length(seconds):
    return type(seconds) in {int, float} and 0 <= seconds <= 60


def get_job(token):
    """Return the status of a job, and its result once it is done."""
    job = jobs[token]
    if not job.done():
        return {"token": token, "status": "pending"}
    return {"token": token, "status": "done", "result": job.result()}


# --8<-- [start:reject]
@bp.exception(SanicException)
async def reject(request, error):
    """Respond to a request that does not open a WebSocket.

    Sanic's own 426 lacks the required Upgrade header and logs a
    traceback.
    """
    return text(str(error), error.status_code, {"Upgrade": "websocket"})
# --8<-- [end:reject]


@bp.before_server_stop
async def cancel_jobs(app):
    for job in jobs.values():
        job.cancel()


if __name__ == "__main__":
    app = Sanic("websockets")
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
