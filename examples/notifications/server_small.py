# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Notifications at their smallest: none is lost, whoever is killed.

What is sent by POST is stored and numbered. Who listens says the last
number that it has, and gets what came after it, now and later.

- Run: `uv run server_small.py`
- or: `pip install sanic==25.12.1 && python server_small.py`
- Try: kill it with `kill -9` while client_sse.py listens
- Source: Last-Event-ID, WHATWG HTML §9.2.4,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import os
import re
import sqlite3
from json import dumps

from sanic import BadRequest, Blueprint, Sanic, json

LOG = os.environ.get("LOG", "small.db")  # the file
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # s of silence

bp = Blueprint("notifications_small")
listeners = {}  # an event that wakes each: its request


# --8<-- [start:small]
@bp.before_server_start
async def open_log(app):
    app.ctx.log = sqlite3.connect(LOG)
    app.ctx.log.execute(
        "CREATE TABLE IF NOT EXISTS log"
        " (id INTEGER PRIMARY KEY, topic TEXT, text TEXT)"
    )


@bp.post("/topics/<topic:[a-z0-9-]{1,40}>")
async def publish(request, topic):
    """Store a notification, and only then wake who listens."""
    match request.json:
        case {"text": str() as text} if text and text.isprintable():
            with request.app.ctx.log as log:  # commits
                row = log.execute(
                    "INSERT INTO log (topic, text) VALUES (?, ?)",
                    [topic, text],
                )
            for news in listeners:
                news.set()
            return json({"id": row.lastrowid}, status=201)
    raise BadRequest('send {"text": "…"}, in one line')


@bp.get("/notifications/events")
async def events(request):
    """Send all after a number, first from the log, then as it comes."""
    log, topic = request.app.ctx.log, request.args.get("topic")
    seen = request.headers.get("Last-Event-ID", "0")
    if not re.fullmatch("[0-9]{1,18}", seen):
        raise BadRequest("Last-Event-ID: the number of the last one")
    stream = await request.respond(content_type="text/event-stream")
    news = asyncio.Event()
    listeners[news] = request
    try:
        while True:
            news.clear()  # before the log is read: none falls between
            rows = log.execute(
                "SELECT id, text FROM log WHERE topic = ? AND id > ?"
                " ORDER BY id",
                [topic, seen],
            ).fetchall()
            for seen, text in rows:
                await stream.send(event(seen, topic, text))
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await news.wait()
            except TimeoutError:
                await stream.send(": still here\n\n")
    finally:  # also when the client has left: that cancels us
        del listeners[news]


def event(number, topic, text):
    note = dumps({"id": number, "to": f"topics/{topic}", "text": text})
    return f"id: {number}\ndata: {note}\n\n"
# --8<-- [end:small]


@bp.before_server_stop
async def stop(app):
    """Hang up on who listens, who will come back for the rest."""
    for request in listeners.values():
        request.transport.abort()


if __name__ == "__main__":
    app = Sanic("notifications_small")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
