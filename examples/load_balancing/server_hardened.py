# /// script
# requires-python = ">=3.11"
# dependencies = ["prometheus-client==0.26.0", "sanic==25.12.1"]
# ///
"""One of several instances behind a load balancer, with draining.

Every response names its instance. An instance that is to stop fails
its health check first; no WebSocket lives longer than MAX_AGE.

- Run: `uv run server_hardened.py`
- or: `pip install prometheus-client==0.26.0 sanic==25.12.1
  && python server_hardened.py`
- Try: three of them, with NAME=a PORT=8001, NAME=b PORT=8002 and
  NAME=c PORT=8003, behind haproxy.cfg or nginx.conf
- Source: close codes, RFC 6455 §7.4.1
"""

import asyncio
import os
import random
import re
import resource
import secrets
from contextlib import contextmanager

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    generate_latest,
)
from sanic import BadRequest, NotFound, Request, Sanic, json, raw
from sanic.exceptions import SanicException, ServiceUnavailable
from sanic.log import logger
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

# --8<-- [start:settings]
HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
NAME = os.environ.get("NAME", "a")
MAX_WAIT = float(os.environ.get("MAX_WAIT", 25))  # of a poll, in s
MAX_AGE = float(os.environ.get("MAX_AGE", 3600))  # of a WebSocket, in s
EVENT_INTERVAL = float(os.environ.get("EVENT_INTERVAL", 15))  # s
MAX_JOBS = int(os.environ.get("MAX_JOBS", 1000))
RESULT_TTL = float(os.environ.get("RESULT_TTL", 600))  # s
# To stop, an instance fails its health check and waits until the load
# balancer has noticed; then it closes its WebSockets over some time.
DRAIN_DELAY = float(os.environ.get("DRAIN_DELAY", 3))  # s
CLOSE_SPREAD = float(os.environ.get("CLOSE_SPREAD", 5))  # s
# Descriptors that clients cannot take: those of health checks, of
# short requests, and of clients that are about to be rejected.
SPARE_FILES = 150
MAX_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
if MAX_FILES == resource.RLIM_INFINITY:
    MAX_FILES = 10_000
MAX_CONNECTIONS = int(
    os.environ.get("MAX_CONNECTIONS", MAX_FILES - SPARE_FILES)
)
# --8<-- [end:settings]

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


app = Sanic("load_balancing_hardened", request_class=SafeRequest)
websockets = set()
held = set()  # the requests of streams and held polls
jobs: dict[str, asyncio.Task] = {}
stopping = asyncio.Event()  # the health check fails
draining = asyncio.Event()  # the load balancer had time to notice


# --8<-- [start:metrics]
CONNECTIONS = Gauge("instance_connections", "Held clients, now")
CONNECTIONS.set_function(lambda: len(websockets) + len(held))
PROBLEMS = Counter("instance_problems", "See report()", ["problem"])


def report(problem, detail):
    """Count a problem, and log it in one line."""
    PROBLEMS.labels(problem).inc()
    logger.warning("%s: %s", problem, detail)


@app.get("/metrics")
async def metrics(request):
    """Return all counters in the format of Prometheus."""
    return raw(generate_latest(), content_type=CONTENT_TYPE_LATEST)
# --8<-- [end:metrics]


# --8<-- [start:reject]
@app.on_request
async def reject_if_full(request):
    """Respond with 503 to a client that would have to be held."""
    holds = request.path in {"/socket", "/events"}
    if not holds and not preferred_wait(request):
        return
    if len(websockets) + len(held) >= MAX_CONNECTIONS:
        report("rejected", "a client, full")
        request.stream.keep_alive = False  # its descriptor is needed
        # Random, so that the clients do not return together.
        retry_after = str(random.randint(5, 15))
        raise ServiceUnavailable(
            "this instance is full",
            headers={"Retry-After": retry_after},
        )
# --8<-- [end:reject]


# --8<-- [start:health]
@app.get("/health")
async def health(request):
    """Return whether this instance accepts new clients."""
    return json(
        {"name": NAME, "websockets": len(websockets)},
        status=503 if stopping.is_set() else 200,
    )
# --8<-- [end:health]


# --8<-- [start:socket]
@app.websocket("/socket")
async def echo(request, ws):
    """Send the instance's name, echo messages, close at MAX_AGE."""
    websockets.add(ws)
    # Random, so that clients that connected together do not return
    # together.
    age = random.uniform(0.8, 1) * MAX_AGE
    try:
        if draining.is_set():
            await ws.close(1012, "this instance stops")
            return
        async with asyncio.timeout(age):
            await ws.send(NAME)
            async for message in ws:
                await ws.send(f"{NAME}: {message}")
    except TimeoutError:
        await ws.close(1001, "maximum age reached")
    finally:
        websockets.discard(ws)
# --8<-- [end:socket]


# --8<-- [start:drain]
@app.before_server_stop
async def drain(app):
    """Drain this instance; Sanic serves requests meanwhile."""
    stopping.set()  # the health check fails from now on
    await asyncio.sleep(DRAIN_DELAY)
    draining.set()  # held polls get a response, streams end
    await asyncio.gather(*map(close_later, websockets))
    for job in jobs.values():
        job.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)


async def close_later(ws):
    """Close one connection, not in the same moment as the others."""
    await asyncio.sleep(random.uniform(0, CLOSE_SPREAD))
    await ws.close(1012, "this instance stops")
# --8<-- [end:drain]


@app.get("/events")
async def events(request):
    """Send an event at intervals, until this instance drains."""
    stream = await request.respond(
        content_type="text/event-stream",
        headers={"Cache-Control": "no-cache, no-transform"},
    )
    with counted(request):
        while not draining.is_set():
            await stream.send(f"data: {NAME}\n\n")
            await hold(EVENT_INTERVAL)


@contextmanager
def counted(request):
    """Count a held client for as long as this context lasts."""
    held.add(request)
    try:
        yield
    finally:  # also if the client disconnects
        held.discard(request)


async def hold(seconds, *tasks):
    """Wait for one of the tasks, the draining, or so many seconds."""
    stop = asyncio.create_task(draining.wait())
    try:
        await asyncio.wait(
            [stop, *tasks],
            timeout=seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        stop.cancel()


# --8<-- [start:jobs]
@app.post("/jobs")
async def create_job(request):
    """Start a job. Other instances do not know it."""
    seconds = parse_job(request.json)
    if len(jobs) >= MAX_JOBS:
        raise ServiceUnavailable(
            "too many jobs", headers={"Retry-After": "5"}
        )
    token = secrets.token_urlsafe(16)
    jobs[token] = asyncio.create_task(asyncio.sleep(seconds, 42))
    loop = asyncio.get_running_loop()
    loop.call_later(seconds + RESULT_TTL, jobs.pop, token)
    body = {"token": token, "status": "pending", "name": NAME}
    headers = {"Location": f"/jobs/{token}"}
    return json(body, status=202, headers=headers)


@app.get("/jobs/<token>")
async def get_job(request, token):
    """Return a job's status; with Prefer: wait=N, hold the request."""
    if token not in jobs:
        raise NotFound(f"instance {NAME} has no job with this token")
    job, wait = jobs[token], preferred_wait(request)
    if wait:
        with counted(request):
            await hold(wait, job)
    body = {"token": token, "status": "pending", "name": NAME}
    if job.done() and not job.cancelled():
        body |= {"status": "done", "result": job.result()}
    return json(body)
# --8<-- [end:jobs]


def parse_job(body):
    """Return the length of a job; reject anything else with 400."""
    seconds = body.get("seconds") if isinstance(body, dict) else None
    # bool is an int, hence type().
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    return seconds


def preferred_wait(request):
    """Return the N of `Prefer: wait=N`, at most MAX_WAIT, or 0."""
    prefer = request.headers.get("Prefer", "")
    match = re.search(r"(?i)\bwait\s*=\s*([0-9]+)", prefer)
    return min(MAX_WAIT, float(match[1])) if match else 0


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
    # --8<-- [start:timer]
    app.config.RESPONSE_TIMEOUT = MAX_WAIT + 5  # s; above the hold
    # --8<-- [end:timer]
    app.run(
        host=HOST,
        port=PORT,
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
