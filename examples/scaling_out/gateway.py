# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prometheus-client==0.26.0",
#   "redis==8.1.0",
#   "sanic==25.12.1",
# ]
# ///
"""A gateway: holds WebSocket connections, and no state to lose.

Any number of gateways deliver the same events, which they read from a
log in Redis. A client can resume at any of them.

- Run: `uv run gateway.py`
- or: `pip install prometheus-client==0.26.0 redis==8.1.0
  sanic==25.12.1 && python gateway.py`
- Try: `curl 127.0.0.1:8000/metrics`
- Same folder: event_log.py
- Needs: Redis 6.2 or later; its address is in REDIS
  (default redis://127.0.0.1:6379)
- Source: close codes, RFC 6455 §7.4.1
"""

import asyncio
import os
import resource

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    generate_latest,
)
from redis.exceptions import RedisError
from sanic import Request, Sanic, json, raw
from sanic.exceptions import (
    BadRequest,
    SanicException,
    ServiceUnavailable,
)
from sanic.log import logger
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

from event_log import (
    CursorExpired,
    EventCache,
    KeyReused,
    append,
    connect_redis,
    diagnose,
    is_id,
    is_text,
)

# --8<-- [start:settings]
HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
# Descriptors that clients cannot take: those of Redis and publishers.
SPARE_FILES = 150
MAX_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
if MAX_FILES == resource.RLIM_INFINITY:
    MAX_FILES = 10_000
MAX_CONNECTIONS = int(
    os.environ.get("MAX_CONNECTIONS", MAX_FILES - SPARE_FILES)
)
MAX_JOBS = int(os.environ.get("MAX_JOBS", 10_000))  # in the queue
PING_INTERVAL = float(os.environ.get("PING_INTERVAL", 20))  # s
PING_TIMEOUT = float(os.environ.get("PING_TIMEOUT", 20))  # s
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", 20))  # s
# --8<-- [end:settings]

RETRY_AFTER = {"Retry-After": "1"}

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


app = Sanic("scaling_out", request_class=SafeRequest)

# --8<-- [start:metrics]
CONNECTIONS = Gauge("gateway_connections", "Clients, now")
RESUMED = Counter("gateway_resumed", "Clients that sent an id")
PROBLEMS = Counter("gateway_problems", "See report()", ["problem"])


def report(problem, detail):
    """Count a problem, and log it in one line."""
    PROBLEMS.labels(problem).inc()
    logger.warning("%s: %s", problem, detail)


@app.get("/metrics")
async def metrics(request):
    """Return all counters in the format of Prometheus."""
    return raw(generate_latest(), content_type=CONTENT_TYPE_LATEST)
# --8<-- [end:metrics]


@app.before_server_start
async def start_reader(app):
    """Start to read the log. Redis may start later."""
    app.ctx.connections = 0
    app.ctx.redis = connect_redis()
    app.ctx.cache = EventCache(app.ctx.redis, report)
    app.ctx.reader = asyncio.create_task(app.ctx.cache.follow())


# --8<-- [start:publish]
def parse_event(request):
    """Return the text and the idempotency key; reject others by 400."""
    key = request.headers.get("idempotency-key", "")
    if len(key) > 100:
        raise BadRequest("an Idempotency-Key has 1 to 100 characters")
    body = request.json
    text = body.get("text") if isinstance(body, dict) else None
    if not text or not is_text(text):
        raise BadRequest(
            'send {"text": "…"}, without control characters'
        )
    return text, key


@app.post("/events")
async def publish(request):
    """Append an event to the log that all gateways read."""
    text, key = parse_event(request)
    event_id = await append(request.app.ctx.redis, "events", text, key)
    return json({"id": event_id}, status=201)


@app.post("/jobs")
async def create_job(request):
    """Append a job to the queue; its result will be an event."""
    text, key = parse_event(request)
    redis = request.app.ctx.redis
    if await redis.xlen("jobs") >= MAX_JOBS:
        raise ServiceUnavailable("too many jobs", headers=RETRY_AFTER)
    # Trimmed far above that limit, since it would lose jobs.
    job_id = await append(redis, "jobs", text, key, 10 * MAX_JOBS)
    return json({"job": job_id, "status": "pending"}, status=202)
# --8<-- [end:publish]


@app.get("/health")
async def health(request):
    """Respond if this process works. Redis is not checked here.

    If it were, all gateways would be marked down at once. But without
    its reader, a gateway delivers nothing.
    """
    ctx = request.app.ctx
    if ctx.reader.done():
        raise ServiceUnavailable("the reader has ended")
    return json({"connections": ctx.connections})


@app.on_request
async def reject_if_full(request):
    """Respond with 503 to a client for which there is no room."""
    if request.headers.get("upgrade", "").lower() != "websocket":
        return
    ctx = request.app.ctx
    if ctx.connections < MAX_CONNECTIONS and ctx.cache.events:
        return
    reason = "full" if ctx.cache.events else "no log"
    report("rejected", f"a client, {reason}")
    request.stream.keep_alive = False  # the descriptor is needed
    raise ServiceUnavailable(
        "the gateway cannot serve you now", headers=RETRY_AFTER
    )


# --8<-- [start:stream]
@app.websocket("/events")
async def stream(request, ws):
    """Send the events after the id that the client saw last."""
    ctx = request.app.ctx
    seen = request.args.get("after")
    if seen is None:
        seen = ctx.cache.events[-1][0]
    elif is_id(seen):
        RESUMED.inc()
    else:
        await ws.close(1008, "after is the id of an event")
        return
    ctx.connections += 1
    CONNECTIONS.inc()
    receiving = asyncio.create_task(receive(ws))
    try:
        async for message in ctx.cache.after(seen):
            async with asyncio.timeout(SEND_TIMEOUT):
                await ws.send(message)  # waits while buffers are full
    except CursorExpired as error:
        report("expired", error)
        await ws.close(4410, str(error))
    except RedisError as error:
        problem = diagnose(error)
        report(problem, error)
        await ws.close(1013, f"the log is {problem}")
    except TimeoutError:
        report("evicted", f"a slow client, at {seen}")
        # A client that reads nothing would not read a close frame.
        request.transport.abort()
    except asyncio.CancelledError:
        # The client has disconnected, or this gateway is stopping.
        await ws.close(1012, "the gateway restarts")
        raise
    finally:
        receiving.cancel()
        ctx.connections -= 1
        CONNECTIONS.dec()
# --8<-- [end:stream]


async def receive(ws):
    """Read what the client sends: an unread message blocks pongs."""
    async for _ in ws:
        pass


# --8<-- [start:errors]
@app.exception(RedisError)
async def redis_unavailable(request, error):
    """Respond with 503, or 500 if a retry is of no use."""
    problem = diagnose(error)
    report(problem, error)
    if problem == "misconfigured":
        message = "the log is misconfigured"
        raise SanicException(message, 500, quiet=True)
    raise ServiceUnavailable(
        f"the log is {problem}", headers=RETRY_AFTER
    )


@app.exception(KeyReused)
async def key_reused(request, error):
    """Respond with 422: a retry sends the same text."""
    raise SanicException(str(error), 422, quiet=True)
# --8<-- [end:errors]


@app.before_server_stop
async def stop_reader(app):
    """Leave no task and no connection behind."""
    # In Python 3.11 asyncio.wait_for(), which redis-py uses, loses a
    # cancellation that arrives as its task ends. So cancel again.
    while not app.ctx.reader.done():
        app.ctx.reader.cancel()
        await asyncio.wait([app.ctx.reader], timeout=1)
    await app.ctx.redis.aclose()


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
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes
    app.config.WEBSOCKET_PING_INTERVAL = PING_INTERVAL
    app.config.WEBSOCKET_PING_TIMEOUT = PING_TIMEOUT
    app.run(
        host=HOST,
        port=PORT,
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
