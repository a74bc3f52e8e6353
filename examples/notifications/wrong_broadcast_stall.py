# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
r"""WRONG: a loop that waits for each subscriber in turn.

This is broadcast.py with put() in place of put_nowait(). While one
client does not read, its queue is full and put() waits, and so do the
publisher and all other subscribers.

- Run: `uv run wrong_broadcast_stall.py`
- or: `pip install sanic==25.12.1 && python wrong_broadcast_stall.py`
- Try: `MAX_QUEUE=10 uv run wrong_broadcast_stall.py`, a client that
  does not read, `sleep 9 |
  uvx websockets ws://127.0.0.1:8000/events >/dev/null & sleep 1` and
  `kill -STOP %1`, and then `curl --fail-early --max-time 2
  -d "{\"text\": \"$(printf %090000d)\"}"
  '127.0.0.1:8000/events?[1-100]'`
- Source: broadcasting, by the author of websockets,
  https://websockets.readthedocs.io/en/stable/topics/broadcast.html
"""

import asyncio
import os
import re
from json import dumps

from sanic import BadRequest, Blueprint, Request, Sanic, json
from sanic.exceptions import SanicException
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
MAX_QUEUE = int(os.environ.get("MAX_QUEUE", 100))  # unsent events


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


bp = Blueprint("broadcast")
subscribers = {}  # {WebSocket: its queue}


@bp.post("/events")
async def publish(request):
    """Queue an event for all subscribers, one after the other."""
    message = dumps({"text": parse_text(request.json)})  # once, for all
    for queue in list(subscribers.values()):
        await queue.put(message)
    return json({"subscribers": len(subscribers)}, status=202)


# A line of text: no control characters, and no half of a character.
TEXT = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def parse_text(body):
    """Return the text of an event; reject any other body (400)."""
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not TEXT.fullmatch(text):
        raise BadRequest('send {"text": "…"}, with one line of text')
    return text


@bp.websocket("/events")
async def subscribe(request, ws):
    """Send each event that is published from now on."""
    subscribers[ws] = queue = asyncio.Queue(MAX_QUEUE)
    receiving = asyncio.create_task(drop_messages(ws))
    try:
        while True:
            await ws.send(await queue.get())
    finally:  # also on a disconnect, which cancels the handler
        subscribers.pop(ws, None)
        receiving.cancel()


async def drop_messages(ws):
    """Receive and ignore: an unread message would block the pongs."""
    async for _ in ws:
        pass


@bp.get("/subscribers")
async def count(request):
    """Return the number of subscribers, and of the longest queue."""
    waiting = max((q.qsize() for q in subscribers.values()), default=0)
    return json({"subscribers": len(subscribers), "waiting": waiting})


@bp.before_server_stop
async def drain(app):
    for ws in list(subscribers):
        ws.end_connection(1012, "the server restarts")


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


if __name__ == "__main__":
    app = Sanic("broadcast", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 100_000  # bytes; above it, 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; above it, 1009
    app.blueprint(bp)
    app.run(
        host=HOST,
        port=PORT,
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
