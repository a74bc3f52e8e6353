# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: a queue for each client, without a bound.

Nobody waits for anybody else, and what a client does not read piles up
in the server's memory for as long as it does not.

- Run: `uv run wrong_broadcast_queue.py`
- or: `pip install sanic==25.12.1 && python wrong_broadcast_queue.py`
- Source: broadcasting, by the author of websockets,
  https://websockets.readthedocs.io/en/stable/topics/broadcast.html
"""

import asyncio
import os
from json import dumps

from sanic import BadRequest, Blueprint, Sanic, json

bp = Blueprint("broadcast_queue")
clients = {}  # a queue: its WebSocket


# --8<-- [start:publish]
@bp.post("/events")
async def publish(request):
    """Hand an event to all who listen, and wait for none of them."""
    message = dumps({"text": read(request.json)})  # once, for all
    for queue in clients:
        queue.put_nowait(message)
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
    """Send what is in this client's queue, as fast as it takes it."""
    queue = asyncio.Queue()
    clients[queue] = ws
    receiving = asyncio.create_task(receive(ws))
    try:
        while True:
            await ws.send(await queue.get())
    finally:  # also when the client has left: that cancels us
        clients.pop(queue, None)
        receiving.cancel()


async def receive(ws):
    """Read, and ignore; what nobody reads would block the pongs."""
    async for _ in ws:
        pass
# --8<-- [end:listen]


@bp.get("/clients")
async def count(request):
    """Say how many listen, and how many events wait at most."""
    waiting = max((queue.qsize() for queue in clients), default=0)
    return json({"clients": len(clients), "waiting": waiting})


@bp.after_server_stop
async def settle(app):
    """Let what Sanic cancelled, its pings too, come to its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)


if __name__ == "__main__":
    app = Sanic("broadcast_queue")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 100_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
