# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Receive webhooks: check each one, and process each event once.

- Run: `uv run receiver.py`
- or: `pip install sanic==25.12.1 && python receiver.py`
- Source: Standard Webhooks 1.0.0
"""

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
SIGNED = "webhook-id", "webhook-timestamp", "webhook-signature"

app = Sanic("receiver")
app.config.FALLBACK_ERROR_FORMAT = "json"
received: set[str] = set()


# --8<-- [start:verify]
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
# --8<-- [end:verify]


# --8<-- [start:receive]
@app.post("/webhooks")
async def receive(request):
    """Process an event, unless it has been processed before."""
    verify(request.headers, request.body)
    message_id = request.headers["webhook-id"]
    if message_id not in received:
        received.add(message_id)
        print(request.json["type"], request.json["data"], flush=True)
    return empty()  # 204: any 2xx means "received"
# --8<-- [end:receive]


if __name__ == "__main__":
    app.run(host=HOST, port=PORT, single_process=True)
