# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A WebSocket with limits on size, rate and connections per client.

- Run: `uv run server_limits.py`
- or: `pip install sanic==25.12.1 && python server_limits.py`
- Try: `uvx websockets ws://127.0.0.1:8000/echo`, and paste 30 lines
- Source: private close codes, RFC 6455 §7.4.2; addresses behind a
  proxy, https://sanic.dev/en/guide/advanced/proxy-headers.html
"""

import asyncio
import os
import time
from collections import Counter

from sanic import Blueprint, Sanic

# --8<-- [start:settings]
MAX_SIZE = int(os.environ.get("MAX_SIZE", 10_000))  # bytes a message
RATE = float(os.environ.get("RATE", 10))  # messages a second
BURST = int(os.environ.get("BURST", 20))  # messages at once
MAX_CONNECTIONS = int(os.environ.get("MAX_CONNECTIONS", 5))  # a client
OWN_PROXIES = int(os.environ.get("OWN_PROXIES", 0))  # in front of us
# --8<-- [end:settings]

bp = Blueprint("security_limits")
connections = Counter()  # client -> open connections
buckets = {}  # client -> Bucket, until it is full again


# --8<-- [start:bucket]
class TokenBucket:
    """Permit BURST messages at once, and RATE messages a second."""

    def __init__(self):
        self.permits, self.updated_at = BURST, time.monotonic()

    def take(self):
        """Take one permit; return whether there was one."""
        now = time.monotonic()
        refill = (now - self.updated_at) * RATE
        self.permits = min(BURST, self.permits + refill)
        self.updated_at = now
        if self.permits < 1:
            return False
        self.permits -= 1
        return True


def drop_bucket(client):
    """Drop the bucket of a disconnected client once it is full again.

    Not before: a client that reconnects would get a full one.
    """
    if client in buckets and client not in connections:
        idle = time.monotonic() - buckets[client].updated_at
        if idle >= BURST / RATE:
            del buckets[client]
# --8<-- [end:bucket]


# --8<-- [start:limits]
@bp.websocket("/echo")
async def echo(request, ws):
    """Echo the messages of a client that stays within the limits."""
    client = request.client_ip  # better: the user, once known
    if connections[client] >= MAX_CONNECTIONS:
        await ws.close(4429, "too many connections")
        return
    connections[client] += 1
    # One bucket for all connections of a client, so that a second
    # connection does not double its rate.
    bucket = buckets.setdefault(client, TokenBucket())
    try:
        async for message in ws:
            if not bucket.take():
                await ws.close(4429, "too many messages")
                return
            await ws.send(message)
    finally:
        connections[client] -= 1
        if not connections[client]:
            del connections[client]
            # The bucket is full by then: it takes half as long.
            delay = 2 * BURST / RATE
            loop = asyncio.get_running_loop()
            loop.call_later(delay, drop_bucket, client)
# --8<-- [end:limits]


if __name__ == "__main__":
    app = Sanic("security_limits")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    # --8<-- [start:config]
    app.config.WEBSOCKET_MAX_SIZE = MAX_SIZE  # more is a 1009
    # How many entries of X-Forwarded-For our own proxies wrote.
    app.config.PROXIES_COUNT = OWN_PROXIES
    # --8<-- [end:config]
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
