# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Something to look at: a held answer, a stream, a socket.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: any of the tools on the same page; FRAMES=DEBUG in the
  environment logs each frame
- Source: 426 and Upgrade, RFC 9110 §15.5.22
"""

import asyncio
import logging
import os

from sanic import Blueprint, Sanic, json

HOLD = float(os.environ.get("HOLD", 1))  # seconds
EVENTS = int(os.environ.get("EVENTS", 3))  # in the stream

bp = Blueprint("debugging")


# --8<-- [start:server]
@bp.get("/poll")
async def poll(request):
    """Hold the question, then answer."""
    await asyncio.sleep(HOLD)
    return json({"status": "done"})


@bp.get("/events")
async def events(request):
    """Send some events, and end."""
    stream = await request.respond(content_type="text/event-stream")
    for number in range(1, EVENTS + 1):
        await stream.send(f"id: {number}\ndata: event {number}\n\n")
        await asyncio.sleep(HOLD)


@bp.websocket("/socket")
async def socket(request, ws):
    """Greet, send back what comes, and end after "bye"."""
    await ws.send("hello")
    async for message in ws:
        await ws.send(message)
        if message == "bye":
            return
# --8<-- [end:server]


if __name__ == "__main__":
    app = Sanic("debugging")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; more is a 1009
    app.blueprint(bp)
    # --8<-- [start:log]
    frames = os.environ.get("FRAMES", "WARNING")  # or DEBUG
    logging.getLogger("sanic.websockets").setLevel(frames)
    # --8<-- [end:log]
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
