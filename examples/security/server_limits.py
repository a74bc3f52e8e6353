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

from sanic import Blueprint, Request, Sanic
from sanic.exceptions import SanicException
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

MAX_SIZE = int(os.environ.get("MAX_SIZE", 10_000))  # bytes a message
RATE = float(os.environ.get("RATE", 10))  # messages a second
BURST = int(os.environ.get("BURST", 20))  # messages at once
MAX_CONNECTIONS = int(os.environ.get("MAX_CONNECTIONS", 5))  # a client
OWN_PROXIES = int(os.environ.get("OWN_PROXIES", 0))  # in front

# --8<-- [start:SafeRequest]
class SafeRequest(Request):
    """A request that no client can turn into a traceback or a leak."""

    def __init__(self, url_bytes, *args, method, **kwargs):
        # Sanic reports an invalid target by means of a request with
        # the method NONE and the same target, and fails on it again.
        if method == "NONE":
            url_bytes = b"*"
        super().__init__(url_bytes, *args, method=method, **kwargs)
        # No response here depends on Accept, and Sanic responds with
        # 500 to an Accept that it cannot parse.
        self.headers.popall("accept", None)

    async def respond(self, *args, **kwargs):
        # Sanic waits without a limit for the rest of a body that was
        # not read to its end. Close the connection instead.
        if self.stream.request_body:
            self.stream.request_body = None
            self.stream.keep_alive = False
        return await super().respond(*args, **kwargs)
# --8<-- [end:SafeRequest]


bp = Blueprint("security_limits")
connections = Counter()  # client -> open connections
buckets = {}  # client -> Bucket, until it is full again


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


# --8<-- [start:protocol]
class HardenedWebSocketProtocol(WebSocketProtocol):
    """Sanic's WebSocket protocol, with five of its faults repaired.

    Sanic 25.12.1 reads ahead without limit while the handler is busy;
    after invalid UTF-8 it keeps the connection open; it accepts any
    number of fragments in a message; it responds with 500 to an
    invalid header; and it omits headers from a rejected handshake.
    RFC 6455 §4.4, §8.1; RFC 9110 §15.5.22.
    """

    __slots__ = ("read_task",)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.read_task = None

    async def websocket_handshake(self, *args):
        """Open the WebSocket, or reject it with the right headers."""
        try:
            ws = await super().websocket_handshake(*args)
        except SanicException as error:
            if error.__context__:  # it could not read the headers
                error.status_code = 400
            error.quiet = error.status_code < 500  # no traceback
            error.headers = {"Sec-WebSocket-Version": "13"}
            if error.status_code == 426:
                error.headers["Upgrade"] = "websocket"
            raise
        ws.can_pause = False  # data_received() pauses instead
        return ws

    def data_received(self, data):
        """Pause reading until the handler has received this data."""
        if self.websocket is None:  # the handshake is still to come
            super().data_received(data)
            return
        self.transport.pause_reading()
        self.read_task = asyncio.create_task(self.process_read(data))

    async def process_read(self, data):
        """Process the frames in `data`, then resume reading."""
        ws, connection = self.websocket, self.websocket.ws_proto
        connection.receive_data(data)
        try:
            await ws.async_data_received(
                connection.data_to_send(), connection.events_received()
            )
        except UnicodeDecodeError:
            ws.fail_connection(1007, "invalid UTF-8")
        else:
            if len(ws.assembler.chunks) > 4096:  # even if all are empty
                ws.fail_connection(1009, "too many fragments")
            elif self.transport:  # None once the connection is lost
                self.transport.resume_reading()

    def connection_lost(self, exc):
        """Cancel the task of the last read."""
        super().connection_lost(exc)
        if self.read_task:
            self.read_task.cancel()
# --8<-- [end:protocol]


if __name__ == "__main__":
    app = Sanic("security_limits", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_MAX_SIZE = MAX_SIZE  # more is a 1009
    # How many entries of X-Forwarded-For our own proxies wrote.
    app.config.PROXIES_COUNT = OWN_PROXIES
    app.blueprint(bp)
    app.run(
        port=int(os.environ.get("PORT", 8000)),
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
