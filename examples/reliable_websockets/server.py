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


if __name__ == "__main__":
    app = Sanic("reliable_websockets")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_PING_INTERVAL = PING
    app.config.WEBSOCKET_PING_TIMEOUT = PONG
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
