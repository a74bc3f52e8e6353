# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Durable notifications in one file: none is lost in a crash.

A POST stores a notification with an id. A subscriber sends the last id
that it has, and receives all later ones, from the log and then live.

- Run: `uv run server_small.py`
- or: `pip install sanic==25.12.1 && python server_small.py`
- Try: kill it with `kill -9` while client_sse.py is connected
- Source: Last-Event-ID, WHATWG HTML §9.2.4,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import os
import re
import sqlite3
from json import dumps

from sanic import BadRequest, Blueprint, Request, Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
LOG = os.environ.get("LOG", "small.db")  # the file
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # seconds


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


bp = Blueprint("notifications_small")
subscribers = {}  # {an event that wakes a subscriber: its request}


# --8<-- [start:small]
@bp.before_server_start
async def open_log(app):
    app.ctx.log = sqlite3.connect(LOG)
    app.ctx.log.executescript(
        "CREATE TABLE IF NOT EXISTS log"
        " (id INTEGER PRIMARY KEY, topic TEXT, text TEXT);"
        "CREATE INDEX IF NOT EXISTS by_topic ON log (topic, id)"
    )


@bp.post("/topics/<topic:[a-z0-9-]{1,40}>")
async def publish(request, topic):
    """Store a notification, then wake the subscribers."""
    text = parse_text(request.json)
    with request.app.ctx.log as log:  # commits
        row = log.execute(
            "INSERT INTO log (topic, text) VALUES (?, ?)", [topic, text]
        )
    for updated in subscribers:
        updated.set()
    return json({"id": row.lastrowid}, status=201)


@bp.get("/notifications/events")
async def stream_events(request):
    """Send all events after an id, from the log and then live."""
    log, topic = request.app.ctx.log, request.args.get("topic")
    last = request.headers.get("Last-Event-ID") or "0"
    if not re.fullmatch("[0-9]{1,18}", last):
        raise BadRequest("Last-Event-ID is the id of a notification")
    stream = await request.respond(
        content_type="text/event-stream",
        headers={"Cache-Control": "no-cache, no-transform"},
    )
    await stream.send(": subscribed\n\n")
    updated = asyncio.Event()
    subscribers[updated] = request
    try:
        while True:
            updated.clear()  # before the log is read: none is missed
            rows = log.execute(
                "SELECT id, text FROM log WHERE topic = ? AND id > ?"
                " ORDER BY id",
                [topic, last],
            ).fetchall()
            for last, text in rows:
                await stream.send(format_event(last, topic, text))
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await updated.wait()
            except TimeoutError:
                await stream.send(": heartbeat\n\n")
    finally:  # also on a disconnect, which cancels the handler
        del subscribers[updated]


def format_event(event_id, topic, text):
    message = {"id": event_id, "to": f"topics/{topic}", "text": text}
    return f"id: {event_id}\ndata: {dumps(message)}\n\n"
# --8<-- [end:small]


# A line of text: no control characters, and no half of a character.
TEXT = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def parse_text(body):
    """Return a notification's text; reject any other body (400)."""
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not TEXT.fullmatch(text):
        raise BadRequest('send {"text": "…"}, with one line of text')
    return text


@bp.before_server_stop
async def end_streams(app):
    """Abort all streams: the clients reconnect for the rest."""
    for request in subscribers.values():
        request.transport.abort()


if __name__ == "__main__":
    app = Sanic("notifications_small", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; above it, 413
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
