# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A stream of numbered events that survives what happens to it.

A client says which event it saw last and gets what came after it, from
the log, and then whatever happens. The log outlives the server.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: kill it with `kill -9` while a client listens, and start it again
- Source: close codes, RFC 6455 §7.4.1; ping and pong, RFC 6455 §5.5.2
"""

import asyncio
import json
import os
from collections import deque
from itertools import islice

from sanic import BadRequest, Blueprint, Sanic
from sanic import json as json_response
from sanic.exceptions import SanicException
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

# --8<-- [start:settings]
LOG = os.environ.get("LOG", "events.log")  # the file
KEEP = int(os.environ.get("KEEP", 1000))  # events in memory
TICK = float(os.environ.get("TICK", 1))  # s to an own event; 0: none
PING = float(os.environ.get("PING", 20))  # s between pings
PONG = float(os.environ.get("PONG", 20))  # s to wait for a pong
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # s of silence
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", 20))  # s
MAX_CLIENTS = int(os.environ.get("MAX_CLIENTS", 1000))
# --8<-- [end:settings]

bp = Blueprint("reliable_websockets")


class Gone(Exception):
    """The log does not reach back, or up, to the event asked for."""


# --8<-- [start:log]
class Log:
    """Numbered events: all of them in a file, the last in memory."""

    def __init__(self, path, keep):
        with open(path, "a+b") as file:  # creates it
            file.seek(0)
            self.events = deque(map(json.loads, file), maxlen=keep)
        # What os.write has written is the kernel's, and outlives this
        # process. To outlive a power cut it would take os.fsync, too.
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.last = self.events[-1]["id"] if self.events else 0
        self.news = asyncio.Event()

    def publish(self, text):
        """Append an event and wake those who wait; return it."""
        event = {"id": self.last + 1, "text": text}
        os.write(self.file, json.dumps(event).encode() + b"\n")
        self.events.append(event)
        self.last = event["id"]
        self.news.set()  # wakes everyone who waits now
        self.news = asyncio.Event()
        return event

    async def after(self, seen):
        """Yield the events after that id, and then those to come.

        Who has seen none, with the id 0, gets all that is in memory.
        None stands for HEARTBEAT seconds in which there was none. Gone
        is raised if the next one is not in memory any more.
        """
        while True:
            first = self.last - len(self.events) + 1
            seen = seen or first - 1
            if not first - 1 <= seen <= self.last:
                has = f"{first} to {self.last}" if self.last else "none"
                raise Gone(f"the log has {has}")
            new = list(islice(self.events, seen + 1 - first, None))
            for event in new:
                yield event
                seen = event["id"]
            if seen == self.last:
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await self.news.wait()
                except TimeoutError:
                    yield None
# --8<-- [end:log]


@bp.before_server_start
async def start(app):
    """Read the log, and write an event of our own now and then."""
    app.ctx.log = Log(LOG, KEEP)
    app.ctx.clients = 0
    app.ctx.ticking = asyncio.create_task(tick(app.ctx.log))


async def tick(log):
    """Stand for whatever happens in the world."""
    while TICK:
        await asyncio.sleep(TICK)
        log.publish("tick")


# --8<-- [start:publish]
@bp.post("/events")
async def publish(request):
    """Append an event: 201, and it is in the log to stay."""
    match request.json:
        case {"text": str() as text} if text:
            event = request.app.ctx.log.publish(text)
            return json_response({"id": event["id"]}, status=201)
    raise BadRequest('send {"text": "…"}')
# --8<-- [end:publish]


# --8<-- [start:stream]
@bp.websocket("/events")
async def stream(request, ws):
    """Send what came after the id that the client saw, and stay.

    A client that names no id gets only what is still to come.
    """
    ctx = request.app.ctx
    after = request.args.get("after", str(ctx.log.last))
    if not after.isdecimal():
        await ws.close(1008, "after is the number of an event")
        return
    if ctx.clients >= MAX_CLIENTS:
        await ws.close(1013, "too many clients")
        return
    ctx.clients += 1
    receiving = asyncio.create_task(receive(ws))
    try:
        async for event in ctx.log.after(int(after)):
            message = json.dumps(event or {"heartbeat": ctx.log.last})
            async with asyncio.timeout(SEND_TIMEOUT):
                await ws.send(message)  # waits while buffers are full
    except Gone as gone:
        await ws.close(4410, str(gone))
    except TimeoutError:
        # The client does not read, and would not read a goodbye.
        request.transport.abort()
    except asyncio.CancelledError:
        # The client is gone already, or else we are about to be.
        await ws.close(1012, "the server restarts")
        raise
    finally:
        receiving.cancel()
        ctx.clients -= 1


async def receive(ws):
    """Read what clients send, and ignore it.

    A message that nobody reads blocks the pongs that come after it.
    """
    async for _ in ws:
        pass
# --8<-- [end:stream]


@bp.before_server_stop
async def stop(app):
    """Leave no task behind; Sanic itself cancels the handlers."""
    app.ctx.ticking.cancel()


@bp.after_server_stop
async def settle(app):
    """Let what was cancelled, Sanic's pings too, come to its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)


# --8<-- [start:protocol]
class HardenedWebSocketProtocol(WebSocketProtocol):
    """Sanic's WebSocket protocol, with four of its faults repaired.

    Sanic 25.12.1 reads as fast as a client sends, however slowly the
    handler receives; it loses the task that meets invalid UTF-8; it
    accepts any number of fragments; and it omits what a rejected
    handshake must contain. RFC 6455 §4.4, §8.1; RFC 9110 §15.5.22.
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
            error.quiet = error.status_code < 500  # no traceback
            error.headers = {"Sec-WebSocket-Version": "13"}
            if error.status_code == 426:
                error.headers["Upgrade"] = "websocket"
            raise
        ws.can_pause = False  # it would resume too early: we pause
        return ws

    def data_received(self, data):
        """Read no more until the handler received what is here."""
        if self.websocket is None:  # the handshake is still to come
            super().data_received(data)
            return
        self.transport.pause_reading()
        self.read_task = asyncio.create_task(self.process_read(data))

    async def process_read(self, data):
        """Pass on the frames in `data`, then resume reading."""
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
        """Let nothing wait for a handler that is gone."""
        super().connection_lost(exc)
        if self.read_task:
            self.read_task.cancel()
# --8<-- [end:protocol]


if __name__ == "__main__":
    app = Sanic("reliable_websockets")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_PING_INTERVAL = PING
    app.config.WEBSOCKET_PING_TIMEOUT = PONG
    app.blueprint(bp)
    app.run(
        port=int(os.environ.get("PORT", 8000)),
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
