# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A socket with three limits: size, rate, and how many a client.

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
RATE = float(os.environ.get("RATE", 10))  # messages a second, and
BURST = int(os.environ.get("BURST", 20))  # so many at once
EACH = int(os.environ.get("EACH", 5))  # connections a client
PROXIES = int(os.environ.get("PROXIES", 0))  # of ours, in front
# --8<-- [end:settings]

bp = Blueprint("security_limits")
connected = Counter()  # client -> connections
buckets = {}  # client -> Bucket, until it is full again


# --8<-- [start:bucket]
class Bucket:
    """So many at once; then as many as drip in, RATE a second."""

    def __init__(self):
        self.left, self.at = BURST, time.monotonic()

    def take(self):
        """Take one; return whether there was one."""
        now = time.monotonic()
        self.left = min(BURST, self.left + (now - self.at) * RATE)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


def forget(client):
    """Drop the bucket of a client that left, once it is full again.

    Not before: who comes back at once would find a new one.
    """
    if client in buckets and client not in connected:
        idle = time.monotonic() - buckets[client].at
        if idle >= BURST / RATE:
            del buckets[client]
# --8<-- [end:bucket]


# --8<-- [start:limits]
@bp.websocket("/echo")
async def echo(request, ws):
    """Send back what comes, to whoever keeps to the limits."""
    client = request.client_ip  # better: the user, once known
    if connected[client] >= EACH:
        await ws.close(4429, "too many connections")
        return
    connected[client] += 1
    # One bucket for all its sockets, or else more sockets, more rate.
    bucket = buckets.setdefault(client, Bucket())
    try:
        async for message in ws:
            if not bucket.take():
                await ws.close(4429, "too many messages")
                return
            await ws.send(message)
    finally:
        connected[client] -= 1
        if not connected[client]:
            del connected[client]
            # By then the bucket is full: that takes half as long.
            later = 2 * BURST / RATE
            asyncio.get_running_loop().call_later(later, forget, client)
# --8<-- [end:limits]


if __name__ == "__main__":
    app = Sanic("security_limits")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    # --8<-- [start:config]
    app.config.WEBSOCKET_MAX_SIZE = MAX_SIZE  # more is a 1009
    # How many entries of X-Forwarded-For our own proxies wrote.
    app.config.PROXIES_COUNT = PROXIES
    # --8<-- [end:config]
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
