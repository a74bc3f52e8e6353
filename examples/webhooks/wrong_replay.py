# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: it accepts a message whenever it is sent, and each time.

A request that was recorded once can be sent again: it is processed
again.

- Run: `uv run wrong_replay.py`
- or: `pip install sanic==25.12.1 && python wrong_replay.py`
- Try: send what was sent on 1 January 2026, twice:
  `curl -i -H 'webhook-id: msg_recorded'
  -H 'webhook-timestamp: 1767225600'
  -H 'webhook-signature:v1,nvj0WzYg0kD4gwX2zC9T6Wdz+ZQBYTTS8+GzwDzw4gI='
  -d '{"type": "job.done", "data": 42}' '127.0.0.1:8001/webhooks?[1-2]'`
- Source: receiver.py, which is right
"""

import base64
import hmac
import os

from sanic import BadRequest, Sanic, empty

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8001))
# The server and the receiver share it. Generate your own.
EXAMPLE = "whsec_ZXhhbXBsZSBzZWNyZXQsIDI0IGJ5dGVz"
SECRET = os.environ.get("SECRET", EXAMPLE)
SIGNED = "webhook-id", "webhook-timestamp", "webhook-signature"

app = Sanic("receiver")
app.config.FALLBACK_ERROR_FORMAT = "json"


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


@app.post("/webhooks")
async def receive(request):
    """Process an event."""
    verify(request.headers, request.body)
    print(request.json["type"], request.json["data"], flush=True)
    return empty()  # 204: any 2xx means "received"


if __name__ == "__main__":
    app.run(host=HOST, port=PORT, single_process=True)
