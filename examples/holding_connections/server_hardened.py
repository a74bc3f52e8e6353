# /// script
# requires-python = ">=3.11"
# dependencies = ["prometheus-client==0.26.0", "sanic==25.12.1"]
# ///
"""Hold clients in three ways, up to a limit, and reject the rest.

- Run: `uv run server_hardened.py`
- or: `pip install prometheus-client==0.26.0 sanic==25.12.1
  && python server_hardened.py`
- Try: MAX_FILES=300 in its environment, client.py, and `curl
  127.0.0.1:8000/metrics`
- Needs: Linux or macOS, for the limit on open files
- Source: 503 and Retry-After, RFC 9110 §15.6.4;
  1013, https://www.iana.org/assignments/websocket/websocket.xhtml
"""

import asyncio
import os
import random
import resource

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    generate_latest,
)
from sanic import Request, Sanic, json, raw
from sanic.exceptions import SanicException, ServiceUnavailable
from sanic.log import logger
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
HOLD = float(os.environ.get("HOLD", 5))  # seconds

# --8<-- [start:limits]
MAX_FILES = int(os.environ.get("MAX_FILES", 10_000))  # to request
# Descriptors for other uses: the program's own, and connections that
# are about to be rejected, of which many may arrive together.
SPARE_FILES = int(os.environ.get("SPARE_FILES", 150))


def raise_file_limit(files):
    """Raise this process's limit on open files; return the result."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


MAX_HELD = raise_file_limit(MAX_FILES) - SPARE_FILES
# --8<-- [end:limits]

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


app = Sanic("holding_connections_hardened", request_class=SafeRequest)
held: set[asyncio.Future] = set()  # one for each client

# --8<-- [start:metrics]
CONNECTIONS = Gauge("holding_connections", "Held clients, now")
CONNECTIONS.set_function(lambda: len(held))
PROBLEMS = Counter("holding_problems", "See report()", ["problem"])


def report(problem, detail):
    """Count a problem, and log it in one line."""
    PROBLEMS.labels(problem).inc()
    logger.warning("%s: %s", problem, detail)


@app.get("/metrics")
async def metrics(request):
    """Return all counters in the format of Prometheus."""
    return raw(generate_latest(), content_type=CONTENT_TYPE_LATEST)
# --8<-- [end:metrics]


# --8<-- [start:hold]
async def hold():
    """Wait for the release, and HOLD seconds at most."""
    waiter = asyncio.get_running_loop().create_future()
    held.add(waiter)
    try:
        await asyncio.wait([waiter], timeout=HOLD)
    finally:  # also if the client disconnected
        held.discard(waiter)


def reject_if_full(request):
    """Respond with 503, and close: the descriptor is needed."""
    if len(held) >= MAX_HELD:
        report("rejected", f"{len(held)} clients are held")
        request.stream.keep_alive = False
        # Random, so that the clients do not return together.
        retry_after = str(random.randint(5, 15))
        raise ServiceUnavailable(
            "the limit of held clients is reached",
            headers={"Retry-After": retry_after},
        )


@app.get("/poll")
async def poll(request):
    """Hold a request."""
    reject_if_full(request)
    await hold()
    return json({"status": "done"})
# --8<-- [end:hold]


# --8<-- [start:ways]
@app.get("/stream")
async def stream(request):
    """Hold an event stream."""
    reject_if_full(request)
    response = await request.respond(
        content_type="text/event-stream",
        headers={"Cache-Control": "no-cache, no-transform"},
    )
    await response.send(": held\n\n")
    await hold()
    await response.send("data: done\n\n")


@app.websocket("/socket")
async def socket(request, ws):
    """Hold a WebSocket connection."""
    if len(held) >= MAX_HELD:
        report("rejected", f"{len(held)} clients are held")
        await ws.close(1013, "the limit of held clients is reached")
        return
    # Without a receiver, one message would block the pongs.
    receiver = asyncio.create_task(drop_messages(ws))
    try:
        await hold()
        await ws.send("done")
    finally:
        receiver.cancel()


async def drop_messages(ws):
    async for _ in ws:
        pass
# --8<-- [end:ways]


@app.post("/release")
async def release(request):
    """Release all clients; return how many there were."""
    return json({"released": release_all()})


def release_all():
    for waiter in held:
        if not waiter.done():
            waiter.set_result(None)
    return len(held)


@app.get("/held")
async def count_held(request):
    """Return how many clients are held, and the limit."""
    return json({"held": len(held), "limit": MAX_HELD})


@app.before_server_stop
async def shutdown(app):
    release_all()


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
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; above it, 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; above it, 1009
    app.config.RESPONSE_TIMEOUT = HOLD + 5  # seconds
    app.run(
        host=HOST,
        port=PORT,
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
