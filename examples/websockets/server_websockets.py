# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""The same job server with the websockets library.

The library serves WebSocket connections only: no routes, and no HTTP
except to reject a handshake.

- Run: `uv run server_websockets.py`
- or: `pip install websockets==17.4 && python server_websockets.py`
- Source: https://websockets.readthedocs.io/en/stable/
"""

import asyncio
import json
import os
import secrets
import signal
from urllib.parse import urlsplit

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))

jobs: dict[str, asyncio.Task] = {}
USAGE = 'send "submit": {"seconds": 0 to 60} or "status": token'


async def run_job(seconds):
    """Stand in for slow work: a report, a video, a model."""
    await asyncio.sleep(seconds)
    return 42


# --8<-- [start:connection]
async def handle_connection(ws):
    """Respond to each message; push the result of each job."""
    try:
        # When the client disconnects, the group cancels the pushes.
        async with asyncio.TaskGroup() as pushes:
            while True:
                response, token = handle_message(await ws.recv())
                await ws.send(json.dumps(response))
                if token:
                    pushes.create_task(push_result(ws, token))
    except* ConnectionClosed:
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


# --8<-- [start:main]
def check_handshake(connection, request):
    """Reject a handshake on another path or of another version."""
    # The target may have a query, or be a whole URL.
    if urlsplit(request.path).path != "/jobs/socket":
        return connection.respond(404, "the path is /jobs/socket\n")
    if request.headers.get("Sec-WebSocket-Version", "13") != "13":
        response = connection.respond(426, "the version is 13\n")
        response.headers["Sec-WebSocket-Version"] = "13"
        return response
    return None


async def main():
    """Serve until SIGINT or SIGTERM."""
    async with serve(
        handle_connection, HOST, PORT, process_request=check_handshake
    ) as server:
        loop = asyncio.get_running_loop()
        for number in signal.SIGINT, signal.SIGTERM:
            loop.add_signal_handler(number, server.close)
        print(f"server listening on {HOST}:{PORT}", flush=True)
        await server.wait_closed()
    for job in jobs.values():
        job.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)
# --8<-- [end:main]


if __name__ == "__main__":
    asyncio.run(main())
