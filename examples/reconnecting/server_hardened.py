# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Send events and accept orders, at a limited rate.

It rejects a client beyond the rate with the time at which to return.
The response to the first order is lost, as an experiment.

- Run: `uv run server_hardened.py`
- or: `pip install sanic==25.12.1 && python server_hardened.py`
- Try: restart it while clients are connected
- Source: 503 and Retry-After, RFC 9110 §15.6.4; close codes,
  RFC 6455 §7.4.1
"""

import asyncio
import json
import math
import os
import re
import time
from uuid import uuid4

from sanic import BadRequest, Blueprint, Request, Sanic
from sanic import json as json_response
from sanic.exceptions import (
    SanicException,
    ServiceUnavailable,
    WebsocketClosed,
)
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
RATE = float(os.environ.get("RATE", 50))  # requests per second
EVENT_INTERVAL = float(os.environ.get("EVENT_INTERVAL", 1))  # s
MAX_EVENTS = int(os.environ.get("MAX_EVENTS", 1000))  # to resume
MAX_ORDERS = int(os.environ.get("MAX_ORDERS", 100_000))  # in memory
LOST_RESPONSES = int(os.environ.get("LOST_RESPONSES", 1))

bp = Blueprint("reconnecting", strict_slashes=True)
websockets = set()
orders: dict[str, int] = {}  # Idempotency-Key: number


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


# --8<-- [start:rate_limiter]
class RateLimiter:
    """A token bucket that computes when a rejected client may retry."""

    MAX_DELAY = 60  # s; under a flood it is the same for all

    def __init__(self, rate):
        self.rate = rate
        self.tokens = self.capacity = max(1, rate)
        self.updated = self.promised = 0.0

    def retry_after(self, now):
        """Take a token and return 0, or the seconds until a retry."""
        tokens = self.tokens + (now - self.updated) * self.rate
        self.tokens, self.updated = min(self.capacity, tokens), now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0
        # Each client later than the one before, at the same rate.
        promised = max(self.promised, now) + 1 / self.rate
        self.promised = min(promised, now + self.MAX_DELAY)
        return math.ceil(self.promised - now)


limiter = RateLimiter(RATE)


@bp.on_request
async def limit_rate(request):
    """Reject a request before its handler runs, a handshake too."""
    if delay := limiter.retry_after(time.monotonic()):
        raise ServiceUnavailable(
            "too many requests", headers={"Retry-After": str(delay)}
        )
# --8<-- [end:rate_limiter]


# --8<-- [start:orders]
@bp.post("/orders")
async def create_order(request):
    """Create an order, or return the one that has this key."""
    key = request.headers.get("Idempotency-Key") or uuid4().hex
    if not re.fullmatch(r"[!-~]{1,64}", key):
        raise BadRequest("Idempotency-Key is 1 to 64 ASCII characters")
    if key not in orders:
        if len(orders) >= MAX_ORDERS:
            raise ServiceUnavailable(
                "too many orders", headers={"Retry-After": "60"}
            )
        orders[key] = len(orders) + 1
        if len(orders) <= LOST_RESPONSES:
            request.transport.abort()  # it exists, without a response
    return json_response({"order": orders[key]}, status=201)


@bp.get("/orders")
async def count_orders(request):
    """Return how many orders there are."""
    return json_response({"orders": len(orders)})
# --8<-- [end:orders]


# --8<-- [start:events]
@bp.websocket("/events")
async def send_events(request, ws):
    """Send each event, beginning after the id in the query.

    Event N happens N * EVENT_INTERVAL seconds after 1970, and stands
    for one in a database: a restart of the server loses none.
    """
    latest = round(time.time() / EVENT_INTERVAL)
    after = request.args.get("after", str(latest))
    if after == "0":  # the oldest that is kept
        after = str(latest - MAX_EVENTS)
    if after not in map(str, range(latest - MAX_EVENTS, latest + 1)):
        await ws.close(4410, "no events after this id")
        return
    receiving = asyncio.create_task(discard_messages(ws))
    websockets.add(ws)
    try:
        while True:
            after = int(after) + 1
            await asyncio.sleep(after * EVENT_INTERVAL - time.time())
            await ws.send(json.dumps({"id": after, "text": "tick"}))
    except WebsocketClosed:
        pass  # raised by send() after a disconnect
    finally:
        websockets.discard(ws)
        receiving.cancel()


async def discard_messages(ws):
    """Receive what the client sends.

    A message that is not received blocks the pongs that follow it.
    """
    async for _ in ws:
        pass


@bp.before_server_stop
async def close_websockets(app):
    """Close with 1012, service restart: clients reconnect."""
    await asyncio.gather(*(ws.close(1012) for ws in set(websockets)))
# --8<-- [end:events]


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
    app = Sanic("reconnecting_hardened", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; above it, 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; above it, 1009
    app.blueprint(bp)
    app.run(
        host=HOST,
        port=PORT,
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
