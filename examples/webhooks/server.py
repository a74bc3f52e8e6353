# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2", "sanic==25.12.1"]
# ///
"""A job server that sends the result to its client as a webhook.

A client submits a job with the URL of a receiver. When the job is
done, the server posts the signed result there. It repeats a request
that fails, up to three times.

- Run: `uv run server.py`
- or: `pip install httpx2==2.16.2 sanic==25.12.1 && python server.py`
- Source: Standard Webhooks 1.0.0; 202 Accepted, RFC 9110 §15.3.3
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


# --8<-- [start:sign]
def sign(message_id, timestamp, body):
    """Return the signature of a message: HMAC-SHA256, in base64."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.{body}".encode()
    digest = hmac.digest(key, signed, "sha256")
    return "v1," + base64.b64encode(digest).decode()
# --8<-- [end:sign]


# --8<-- [start:send_webhook]
async def send_webhook(url, event):
    """Post an event to a receiver; try it up to four times."""
    body = json(event).body.decode()
    # The id names the event: it is the same in each attempt.
    message_id = f"msg_{secrets.token_urlsafe(16)}"
    async with httpx2.AsyncClient() as client:
        for delay in 0, 1, 5, 30:
            await asyncio.sleep(delay)
            timestamp = str(int(time.time()))
            headers = {
                "Content-Type": "application/json",
                "webhook-id": message_id,
                "webhook-timestamp": timestamp,
                "webhook-signature": sign(message_id, timestamp, body),
            }
            with suppress(httpx2.HTTPError, httpx2.InvalidURL):
                response = await client.post(
                    url, content=body, headers=headers
                )
                if response.is_success:
                    return
# --8<-- [end:send_webhook]


# --8<-- [start:parse_job]
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
# --8<-- [end:parse_job]


# --8<-- [start:run_job]
async def run_job(job, seconds, callback):
    """Do the work, store the result, and send it to the receiver."""
    # Stand in for slow work: a report, a video, a model.
    await asyncio.sleep(seconds)
    job |= {"status": "done", "result": 42}
    if callback is not None:
        await send_webhook(callback, {"type": "job.done", "data": job})
# --8<-- [end:run_job]


# --8<-- [start:create_job]
@app.post("/jobs")
async def create_job(request):
    """Start a job and return its token at once."""
    seconds, callback = parse_job(request.json)
    token = secrets.token_urlsafe(16)  # 128 random bits: unguessable
    jobs[token] = job = {"token": token, "status": "pending"}
    tasks.add(asyncio.create_task(run_job(job, seconds, callback)))
    fields = {"Location": f"/jobs/{token}", "Retry-After": "1"}
    return json(job, 202, fields)
# --8<-- [end:create_job]


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
