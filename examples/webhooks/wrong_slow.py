# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: it works first and responds afterwards.

The server waits five seconds for a response. It counts a later one
as a failure and sends the message again, and each is processed.
Sanic cancels the handler when the server disconnects.

- Run: `uv run wrong_slow.py`
- or: `pip install sanic==25.12.1 && python wrong_slow.py`
- Source: receiver.py, which is right
"""

import asyncio
import base64
import hmac
import os
import time

from sanic import BadRequest, Sanic, empty

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8001))
# The server and the receiver share it. Generate your own.
EXAMPLE = "whsec_ZXhhbXBsZSBzZWNyZXQsIDI0IGJ5dGVz"
SECRET = os.environ.get("SECRET", EXAMPLE)
MAX_AGE = 300  # seconds
SECONDS_OF_WORK = float(os.environ.get("SECONDS_OF_WORK", 10))
SIGNED = "webhook-id", "webhook-timestamp", "webhook-signature"

app = Sanic("receiver")
app.config.FALLBACK_ERROR_FORMAT = "json"
received: set[str] = set()


def verify(headers, body):
    """Reject a message that the server has not sent just now (400)."""
    message_id, timestamp, signatures = (
        headers.get(name, "").encode(errors="surrogateescape")
        for name in SIGNED
    )
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = b".".join([message_id, timestamp, body])
    digest = hmac.digest(key, signed, "sha256")
    expected = b"v1," + base64.b64encode(digest)
    # There are several while the secret is being replaced.
    if not any(
        hmac.compare_digest(expected, signature)
        for signature in signatures.split()
    ):
        raise BadRequest("the signature is wrong")
    if abs(time.time() - int(timestamp)) > MAX_AGE:
        raise BadRequest("the message is too old")


@app.post("/webhooks")
async def receive(request):
    """Process an event, unless it has been processed before."""
    verify(request.headers, request.body)
    message_id = request.headers["webhook-id"]
    if message_id not in received:
        print(request.json["type"], request.json["data"], flush=True)
        await asyncio.sleep(SECONDS_OF_WORK)  # and more work
        received.add(message_id)
    return empty()  # 204: any 2xx means "received"


if __name__ == "__main__":
    app.run(host=HOST, port=PORT, single_process=True)
