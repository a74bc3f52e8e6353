# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: a loop that waits for each client in turn.

It goes through a copy, so that nobody changes it; but while one client
does not read, send() waits, and with it everyone else.

- Run: `uv run wrong_broadcast_stall.py`
- or: `pip install sanic==25.12.1 && python wrong_broadcast_stall.py`
- Source: broadcasting, by the author of websockets,
  https://websockets.readthedocs.io/en/stable/topics/broadcast.html
"""

import asyncio
import os
from json import dumps

from sanic import BadRequest, Blueprint, Sanic, json

bp = Blueprint("broadcast_stall")
clients = set()


# --8<-- [start:publish]
@bp.post("/events")
async def publish(request):
    """Hand an event to all who listen, one after the other."""
    message = dumps({"text": read(request.json)})  # once, for all
    for ws in list(clients):
        await ws.send(message)
    return json({"clients": len(clients)}, status=202)
# --8<-- [end:publish]


def read(body):
    """Return the text of an event; anything else is 400."""
    match body:
        case {"text": str() as text} if text:
            return text
    raise BadRequest('send {"text": "…"}')


# --8<-- [start:listen]
@bp.websocket("/events")
async def listen(request, ws):
    """Remember a client for as long as it is here."""
    clients.add(ws)
    try:
        async for _ in ws:
            pass
    finally:
        clients.discard(ws)
# --8<-- [end:listen]


@bp.get("/clients")
async def count(request):
    """Say how many listen."""
    return json({"clients": len(clients)})


@bp.after_server_stop
async def settle(app):
    """Let what Sanic cancelled, its pings too, come to its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)


if __name__ == "__main__":
    app = Sanic("broadcast_stall")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 100_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
