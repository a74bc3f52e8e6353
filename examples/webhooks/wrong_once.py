# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2", "sanic==25.12.1"]
# ///
"""WRONG: it makes one attempt, and a failed one is the last.

While the receiver restarts, messages are lost.

- Run: `uv run wrong_once.py`
- or: `pip install httpx2==2.16.2 sanic==25.12.1
  && python wrong_once.py`
- Source: server.py, which is right
"""

import asyncio
import base64
import hmac
import os
import secrets
import time
from contextlib import suppress

import httpx2
from sanic import BadRequest, NotFound, Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
# The server and the receiver share it. Generate your own.
EXAMPLE = "whsec_ZXhhbXBsZSBzZWNyZXQsIDI0IGJ5dGVz"
SECRET = os.environ.get("SECRET", EXAMPLE)

app = Sanic("webhooks")
app.config.FALLBACK_ERROR_FORMAT = "json"
jobs: dict[str, dict] = {}
tasks: set[asyncio.Task] = set()


def sign(message_id, timestamp, body):
    """Return the signature of a message: HMAC-SHA256, in base64."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.{body}".encode()
    digest = hmac.digest(key, signed, "sha256")
    return "v1," + base64.b64encode(digest).decode()


async def send_webhook(url, event):
    """Post an event to a receiver; try it once."""
    body = json(event).body.decode()
    message_id = f"msg_{secrets.token_urlsafe(16)}"
    async with httpx2.AsyncClient() as client:
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": sign(message_id, timestamp, body),
        }
        with suppress(httpx2.HTTPError, httpx2.InvalidURL):
            await client.post(url, content=body, headers=headers)


def parse_job(body):
    """Return (seconds, callback or None); reject others with 400."""
    job = body if isinstance(body, dict) else {}
    seconds, callback = job.get("seconds"), job.get("callback")
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    if callback is not None and not str(callback).startswith("http"):
        raise BadRequest('"callback" is an http or https URL')
    return seconds, callback


async def run_job(job, seconds, callback):
    """Do the work, store the result, and send it to the receiver."""
    # Stand in for slow work: a report, a video, a model.
    await asyncio.sleep(seconds)
    job |= {"status": "done", "result": 42}
    if callback is not None:
        await send_webhook(callback, {"type": "job.done", "data": job})


@app.post("/jobs")
async def create_job(request):
    """Start a job and return its token at once."""
    seconds, callback = parse_job(request.json)
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    jobs[token] = job = {"token": token, "status": "pending"}
    tasks.add(asyncio.create_task(run_job(job, seconds, callback)))
    fields = {"Location": f"/jobs/{token}", "Retry-After": "1"}
    return json(job, 202, fields)


@app.get("/jobs/<token>")
async def get_job(request, token):
    """Return the status of a job, and its result once it is done."""
    if token not in jobs:
        raise NotFound("unknown token")
    pending = jobs[token]["status"] == "pending"
    headers = {"Retry-After": "1"} if pending else {}
    return json(jobs[token], headers=headers)


@app.before_server_stop
async def cancel_jobs(app):
    """Leave no task behind when the server stops."""
    running = [task for task in tasks if task.cancel()]
    await asyncio.gather(*running, return_exceptions=True)


if __name__ == "__main__":
    app.run(host=HOST, port=PORT, single_process=True)
