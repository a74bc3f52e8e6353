# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: counts clients that have disconnected.

This is server.py without `finally`. When a client disconnects, Sanic
cancels the handler, and the lines after the `try` do not run.

- Run: `uv run wrong_server_leak.py`
- or: `pip install sanic==25.12.1 && python wrong_server_leak.py`
- Try: `MAX_CONNECTIONS=1 uv run wrong_server_leak.py`, and then
  `sleep 1 | uvx websockets ws://127.0.0.1:8000/events`, and again
  `sleep 1 | uvx websockets ws://127.0.0.1:8000/events`
- Source: close codes, RFC 6455 §7.4.1; ping and pong, RFC 6455 §5.5.2
"""

import asyncio
import errno
import json
import os
import re
import resource
from collections import deque
from contextlib import suppress
from itertools import islice

from sanic import BadRequest, Blueprint, Request, Sanic
from sanic import json as json_response
from sanic.exceptions import SanicException
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

# --8<-- [start:settings]
LOG = os.environ.get("LOG", "events.log")  # path of the file
MAX_EVENTS = int(os.environ.get("MAX_EVENTS", 1000))  # in memory
# Seconds between events that the server publishes itself; 0: none
EVENT_INTERVAL = float(os.environ.get("EVENT_INTERVAL", 1))
PING_INTERVAL = float(os.environ.get("PING_INTERVAL", 20))  # s
PING_TIMEOUT = float(os.environ.get("PING_TIMEOUT", 20))  # s
HEARTBEAT_INTERVAL = float(os.environ.get("HEARTBEAT_INTERVAL", 15))
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", 20))  # s
# Descriptors that clients cannot take: those of the log, of
# publishers, and of clients that are about to be rejected.
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


bp = Blueprint("reliable_websockets")


class CursorExpired(Exception):
    """The event after which to resume is not in memory."""


# --8<-- [start:log]
class EventLog:
    """Numbered events: all of them in a file, the newest in memory."""

    def __init__(self, path, max_events):
        with open(path, "a+b") as file:  # creates it
            file.seek(0)
            events = map(json.loads, file)
            self.events = deque(events, maxlen=max_events)
        # After os.write the kernel has the event, so it survives the
        # end of this process. To survive a power cut, add os.fsync.
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.last = self.events[-1]["id"] if self.events else 0
        self.updated = asyncio.Event()

    def publish(self, text):
        """Append an event, wake all waiting tasks; return the event.

        Raises OSError if it cannot be stored: the disk is full.
        """
        event = {"id": self.last + 1, "text": text}
        line = json.dumps(event).encode() + b"\n"
        size = os.fstat(self.file).st_size
        if os.write(self.file, line) < len(line):  # a part of it
            os.ftruncate(self.file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.events.append(event)
        self.last = event["id"]
        self.updated.set()  # wakes all tasks that wait now
        self.updated = asyncio.Event()
        return event

    async def after(self, seen):
        """Yield the events after the id `seen`, then new ones.

        0 stands for a client that has seen no event: it gets all that
        are in memory. Yields None, for a heartbeat, after each
        HEARTBEAT_INTERVAL seconds without an event. Raises
        CursorExpired if the next event is not in memory.
        """
        seen = seen or self.last - len(self.events)
        while True:
            first = self.last - len(self.events) + 1
            if not first - 1 <= seen <= self.last:
                has = f"{first} to {self.last}" if self.last else "none"
                raise CursorExpired(f"the log has {has}")
            new = list(islice(self.events, seen + 1 - first, None))
            for event in new:
                yield event
                seen = event["id"]
            if seen == self.last:
                try:
                    async with asyncio.timeout(HEARTBEAT_INTERVAL):
                        await self.updated.wait()
                except TimeoutError:
                    yield None
# --8<-- [end:log]


@bp.before_server_start
async def open_log(app):
    """Read the log, and start to publish events of its own."""
    app.ctx.log = EventLog(LOG, MAX_EVENTS)
    app.ctx.connections = 0
    app.ctx.publishing = asyncio.create_task(publish_ticks(app.ctx.log))


async def publish_ticks(log):
    """Stand in for events that happen elsewhere."""
    while EVENT_INTERVAL:
        await asyncio.sleep(EVENT_INTERVAL)
        with suppress(OSError):  # the disk is full
            log.publish("tick")


# --8<-- [start:publish]
def parse_event(body):
    """Return the text of an event; reject anything else with 400."""
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not text:
        raise BadRequest('send {"text": "…"}')
    if re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", text):
        raise BadRequest("a text has no control characters")
    return text


@bp.post("/events")
async def publish(request):
    """Append an event; 201 means that the log contains it."""
    text = parse_event(request.json)
    try:
        event = request.app.ctx.log.publish(text)
    except OSError as error:
        raise SanicException(
            f"not stored: {error.strerror}", status_code=507, quiet=True
        ) from None
    return json_response({"id": event["id"]}, status=201)
# --8<-- [end:publish]


# --8<-- [start:stream]
def parse_subscription(request):
    """Return the id after which to start; None if it is not one.

    Without an id, that is the newest: only new events are sent.
    """
    newest = str(request.app.ctx.log.last)
    after = request.args.get("after", newest)
    return int(after) if re.fullmatch("[0-9]{1,15}", after) else None


@bp.websocket("/events")
async def stream(request, ws):
    """Send the events after the id that the client has seen last."""
    ctx = request.app.ctx
    after = parse_subscription(request)
    if after is None:
        await ws.close(1008, "after is not the number of an event")
        return
    if ctx.connections >= MAX_CONNECTIONS:
        await ws.close(1013, "too many connections")
        return
    ctx.connections += 1
    receiving = asyncio.create_task(drop_messages(ws))
    try:
        async for event in ctx.log.after(after):
            message = json.dumps(event or {"heartbeat": ctx.log.last})
            async with asyncio.timeout(SEND_TIMEOUT):
                await ws.send(message)  # waits while buffers are full
    except CursorExpired as error:
        await ws.close(4410, str(error))
    except TimeoutError:
        # A slow consumer: a close frame would wait behind the events.
        request.transport.abort()
    except asyncio.CancelledError:
        # The client has disconnected, or the server stops.
        await ws.close(1012, "the server restarts")
        raise
    receiving.cancel()
    ctx.connections -= 1


async def drop_messages(ws):
    """Receive what clients send, and ignore it.

    A message that is not received blocks the pongs behind it.
    """
    async for _ in ws:
        pass
# --8<-- [end:stream]


@bp.before_server_stop
async def stop_publishing(app):
    """Publish nothing more. Sanic itself cancels the handlers."""
    app.ctx.publishing.cancel()


@bp.after_server_stop
async def drain_tasks(app):
    """Wait until the cancelled tasks have ended.

    Sanic keeps no list of the tasks that send its pings, so all tasks
    of the loop are what there is.
    """
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)


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
    app = Sanic("reliable_websockets", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_PING_INTERVAL = PING_INTERVAL
    app.config.WEBSOCKET_PING_TIMEOUT = PING_TIMEOUT
    app.blueprint(bp)
    app.run(
        port=int(os.environ.get("PORT", 8000)),
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
